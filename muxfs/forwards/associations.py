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
from muxfs.forwards.datagrams import BURST, Association
from muxfs.forwards.events import REFUSALS, Ended, Opened, Refused
from muxfs.forwards.tcp import address_text

MAX_ASSOCIATIONS: Final = 256
REFUSED_TIME: Final = 5.0
"""Seconds for which a refused client's datagrams are dropped."""

MAX_WAITING: Final = BURST
"""Datagrams of a client that wait until it is known whose they are."""

Address: TypeAlias = tuple[str, int]


class _Client:
    """One client's datagrams to one target, until it is known whose they are."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self.association = Association(deliver)
        self._waiting: list[bytes] = []
        self._news = trio.Event()

    def put(self, datagram: bytes) -> None:
        """Have a datagram judged, or drop it."""
        self.association.touch()
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(datagram)
            self._news.set()

    async def take(self) -> list[bytes]:
        """Wait for datagrams."""
        await self._news.wait()
        self._news = trio.Event()
        taken, self._waiting = self._waiting, []
        return taken


@attrs.define(eq=False)
class Associations:
    """All associations of one listening socket.

    Rule: whose a client's port is, is asked again for what it sends later: once it is
    closed, any user may bind it.
    """

    nursery: trio.Nursery
    carrier: Carrier
    sock: socket.socket
    admission: Admission
    limit: int = MAX_ASSOCIATIONS
    _table: OrderedDict[tuple[Address, str], _Client] = attrs.field(factory=OrderedDict, init=False)

    def send(
        self, address: Address, target: str, deliver: Callable[[bytes], None], datagram: bytes
    ) -> None:
        """Send a client's datagram through its association, which is made if it is missing.

        target: the text of its OPEN. deliver: passes answers on to the client; never waits.
        """
        key = address, target
        client = self._table.get(key)
        if client is None:
            client = self._table[key] = _Client(deliver)
            if len(self._table) > self.limit:
                _, idlest = self._table.popitem(last=False)
                idlest.association.scope.cancel()
            self.nursery.start_soon(self._run, address, target, client)
        self._table.move_to_end(key)
        client.put(datagram)

    async def _run(self, address: Address, target: str, client: _Client) -> None:
        with client.association.scope:
            refused = await self._carry(address, target, client)
            if refused is not None:
                self.carrier.report(refused)
                # dropped meanwhile, instead of asking for each datagram
                await trio.sleep(REFUSED_TIME)
        if self._table.get((address, target)) is client:
            del self._table[address, target]

    async def _carry(self, address: Address, target: str, client: _Client) -> Refused | None:
        originator, report = address_text(address), self.carrier.report
        association = client.association
        datagrams = await client.take()
        why = await self.admission.refusal_of_datagrams(self.sock, address)
        if why:
            return Refused(originator, target, Code.PROHIBITED, why)
        try:
            stream = self.carrier.session.start_stream(target, originator)
        except trio.BrokenResourceError:
            return None  # there is no session: dropped
        report(Opened(originator, target))
        ending: StreamEnded | None = None

        async def send() -> None:
            nonlocal datagrams, why
            while not why:
                for datagram in datagrams:
                    association.send(datagram)
                datagrams = await client.take()
                why = await self.admission.refusal_of_datagrams(self.sock, address)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                ending = await association.carry(stream)
                nursery.cancel_scope.cancel()
        finally:
            refused = ending is not None and ending.code in REFUSALS
            if not refused:
                sent, received = association.sent, association.received
                report(Ended(originator, target, sent, received, clean=ending is None))
        if ending is not None and refused:
            return Refused(originator, target, ending.code, ending.reason)
        return Refused(originator, target, Code.PROHIBITED, why) if why else None
