"""Two real sessions over a filesystem in memory, with real TCP sockets at both ends."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio
from hypothesis import settings

from muxfs import Session, SessionConfig, open_session
from muxfs.core.polling import PollPolicy
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Event
from muxfs.forwards.splice import Transfer, splice
from muxfs.forwards.tcp import Connection
from muxfs.testing import MemoryFilesystem

CONFIG = SessionConfig(
    capacity=1 << 20, heartbeat=0.2, poll=PollPolicy(minimum=0.001, maximum=0.01)
)
FUZZ = settings(
    max_examples=20_000 if os.environ.get("MUXFS_FUZZ") == "thorough" else 200, deadline=None
)
"""For parsers of what a far side or a client may send."""
E = TypeVar("E")
NAMES = {"listen": ("listen.mbx", "dial.mbx"), "dial": ("dial.mbx", "listen.mbx")}


@asynccontextmanager
async def end(fs: MemoryFilesystem, role: str) -> AsyncIterator[Session]:
    """Run one side of a session."""
    storage = fs.storage(*NAMES[role])
    async with open_session("", role=role, config=CONFIG, storage=storage) as session:
        yield session


@attrs.define
class Log:
    """Collects events."""

    events: list[Event] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()
        self._news = trio.Event()

    async def wait(self, kind: type[E]) -> E:
        """Wait for the first event of that kind."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            await self.news()

    async def news(self) -> None:
        """Wait for the next event."""
        await self._news.wait()


@asynccontextmanager
async def sessions() -> AsyncIterator[tuple[Session, Session]]:
    """Run both sides; yields listen and dial, established."""
    fs = MemoryFilesystem()
    async with end(fs, "listen") as listen, end(fs, "dial") as dial:
        await listen.wait_established()
        await dial.wait_established()
        yield listen, dial


def pair() -> tuple[trio.SocketStream, Connection]:
    """Connect two sockets over TCP: the outer end, and the end to be spliced."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outer = socket.create_connection(server.getsockname())
        inner, _ = server.accept()
    return trio.SocketStream(trio.socket.from_stdlib_socket(_nonblocking(outer))), Connection(inner)


def _nonblocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


@attrs.define
class Joined:
    """A client and a server, joined through both sessions."""

    client: trio.SocketStream
    server: trio.SocketStream
    near: Transfer
    far: Transfer
    scope: trio.CancelScope
    over: trio.Event
    """Set when both splices have ended."""


@asynccontextmanager
async def joined() -> AsyncIterator[Joined]:
    """Splice a TCP connection at each end to one stream."""
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        listener = dial.listen()
        near_stream = listen.start_stream("anything")
        far_stream = await listener.accept()
        client, near = pair()
        server, far = pair()
        transfers = Transfer(), Transfer()
        over = trio.Event()

        async def both() -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(splice, near, near_stream, transfers[0])
                inner.start_soon(splice, far, far_stream, transfers[1])
            over.set()

        nursery.start_soon(both)
        async with client, server:
            yield Joined(client, server, *transfers, nursery.cancel_scope, over)
        nursery.cancel_scope.cancel()


def reset(stream: trio.SocketStream) -> None:
    """Close with a TCP reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def receive_all(stream: trio.SocketStream) -> bytes:
    """Receive to the clean end. Raises trio.BrokenResourceError for a reset."""
    return b"".join([data async for data in stream])


async def is_reset(stream: trio.SocketStream) -> bool:
    """Receive to the end, and close; whether it was a reset."""
    async with stream:
        try:
            await receive_all(stream)
        except trio.BrokenResourceError:
            return True
    return False


async def send_for_ever(stream: trio.abc.SendStream | Connection, size: int = 1000) -> None:
    """Send until that fails."""
    while True:
        await stream.send_all(bytes(size))
        await trio.sleep(0.001)


def carrier(session: Session) -> tuple[Carrier, Log]:
    """Make a carrier and the log of its events."""
    log = Log()
    return Carrier(session, log), log
