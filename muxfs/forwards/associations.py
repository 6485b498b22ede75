"""The UDP clients of one listening socket: an association for each client and target.

Their number is bounded: a new one takes the place of the one that was idle for longest,
since a resolver uses each client port only once.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import StreamEnded
from muxfs.forwards.admission import Admission
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.datagrams import Association
from muxfs.forwards.events import REFUSALS, Ended, Opened, Refused
from muxfs.forwards.tcp import address_text

MAX_ASSOCIATIONS: Final = 256
REFUSED_TIME: Final = 5.0
"""Seconds for which a refused client's datagrams are dropped."""

Client: TypeAlias = tuple[str, int]


@attrs.define(eq=False)
class Associations:
    """All associations of one listening socket."""

    nursery: trio.Nursery
    carrier: Carrier
    sock: socket.socket
    admission: Admission
    limit: int = MAX_ASSOCIATIONS
    _table: OrderedDict[tuple[Client, str], Association] = attrs.field(
        factory=OrderedDict, init=False
    )

    def send(
        self, client: Client, target: str, deliver: Callable[[bytes], None], datagram: bytes
    ) -> None:
        """Send a client's datagram through its association, which is made if it is missing.

        target: the text of its OPEN. deliver: passes answers on to the client; never waits.
        """
        key = client, target
        found = self._table.get(key)
        if found is None:
            found = self._table[key] = Association(deliver)
            if len(self._table) > self.limit:
                _, idlest = self._table.popitem(last=False)
                idlest.scope.cancel()
            self.nursery.start_soon(self._run, client, target, found)
        self._table.move_to_end(key)
        found.send(datagram)

    async def _run(self, client: Client, target: str, association: Association) -> None:
        with association.scope:
            refused = await self._carry(client, target, association)
            if refused is not None:
                self.carrier.report(refused)
                # dropped meanwhile, instead of asking for each datagram
                await trio.sleep(REFUSED_TIME)
        if self._table.get((client, target)) is association:
            del self._table[client, target]

    async def _carry(self, client: Client, target: str, association: Association) -> Refused | None:
        originator, report = address_text(client), self.carrier.report
        why = await self.admission.refusal_of_datagrams(self.sock, client)
        if why:
            return Refused(originator, target, Code.PROHIBITED, why)
        try:
            stream = self.carrier.session.start_stream(target, originator)
        except trio.BrokenResourceError:
            return None  # there is no session: dropped
        report(Opened(originator, target))
        ending: StreamEnded | None = None
        try:
            ending = await association.carry(stream)
        finally:
            refused = ending is not None and ending.code in REFUSALS
            if not refused:
                sent, received = association.sent, association.received
                report(Ended(originator, target, sent, received, clean=ending is None))
        if ending is not None and refused:
            return Refused(originator, target, ending.code, ending.reason)
        return None
