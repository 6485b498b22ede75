"""The UDP clients of one listening socket: an association for each client and target.

Their number is bounded: a new one takes the place of the one that was idle for longest,
since a resolver uses each client port only once. Clients of whom it is not known that they are
let in have places of their own: any user of the host can send from thousands of ports.
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
_Key: TypeAlias = tuple[Address, str]
"""A client, and the text of its streams' OPEN."""
_Table: TypeAlias = "OrderedDict[_Key, _Client]"


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

    Rule: whose a client's port is, is asked again for what it sends later, and for what it
    is sent: once it is closed, any user may bind it.
    """

    nursery: trio.Nursery
    carrier: Carrier
    sock: socket.socket
    admission: Admission
    limit: int = MAX_ASSOCIATIONS
    """Of those that are let in, and of the others."""
    _admitted: _Table = attrs.field(factory=OrderedDict, init=False)
    _others: _Table = attrs.field(factory=OrderedDict, init=False)

    def send(
        self, address: Address, target: str, deliver: Callable[[bytes], None], datagram: bytes
    ) -> None:
        """Send a client's datagram through its association, which is made if it is missing.

        target: the text of its OPEN. deliver: passes answers on to the client; never waits.
        """
        key = address, target
        client = self._admitted.get(key) or self._others.get(key)
        if client is None:
            client = _Client(deliver)
            self._put(self._others, key, client)
            self.nursery.start_soon(self._run, key, client)
        table = self._admitted if key in self._admitted else self._others
        table.move_to_end(key)
        client.put(datagram)

    def _put(self, table: _Table, key: _Key, client: _Client) -> None:
        self._remove(key, client)
        table[key] = client
        if len(table) > self.limit:
            _, idlest = table.popitem(last=False)
            idlest.association.scope.cancel()

    def _remove(self, key: _Key, client: _Client) -> None:
        for table in (self._admitted, self._others):
            if table.get(key) is client:  # another one may have its place
                del table[key]

    async def _run(self, key: _Key, client: _Client) -> None:
        with client.association.scope:
            refused = await self._carry(key, client)
            if refused is not None:
                self.carrier.report(refused)
                self._put(self._others, key, client)
                # dropped meanwhile, instead of asking for each datagram
                await trio.sleep(REFUSED_TIME)
        self._remove(key, client)

    async def _carry(self, key: _Key, client: _Client) -> Refused | None:
        address, target = key
        originator, report = address_text(address), self.carrier.report
        association = client.association
        datagrams = await client.take()
        why = await self.admission.refusal_of_datagrams(self.sock, address)
        if why:
            return Refused(originator, target, Code.PROHIBITED, why)
        self._put(self._admitted, key, client)
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

        async def still_there() -> bool:
            return not await self.admission.refusal_of_datagrams(self.sock, address)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                ending = await association.carry(stream, still_there)
                nursery.cancel_scope.cancel()
        finally:
            refused = ending is not None and ending.code in REFUSALS
            if not refused:
                sent, received = association.sent, association.received
                report(Ended(originator, target, sent, received, clean=ending is None))
        if ending is not None and refused:
            return Refused(originator, target, ending.code, ending.reason)
        return Refused(originator, target, Code.PROHIBITED, why) if why else None
