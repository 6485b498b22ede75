"""Two sessions over one filesystem in memory, and what happens to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio

import muxfs
from muxfs.storage.base import Buffer
from muxfs.testing import MemoryFilesystem, MemoryStorage

CAPACITY = 1 << 20
LISTEN, DIAL = "listen.mbx", "dial.mbx"
TIMEOUT = 60.0
"""The default peer timeout."""

HEARTBEAT = 5.0
BIRTH = slice(0, 4096)


def storage(fs: MemoryFilesystem, role: Literal["listen", "dial"]) -> MemoryStorage:
    return fs.storage(*((LISTEN, DIAL) if role == "listen" else (DIAL, LISTEN)))


@asynccontextmanager
async def open_side(
    fs: MemoryFilesystem,
    role: Literal["listen", "dial"],
    mailboxes: MemoryStorage | None = None,
    **settings: Any,
) -> AsyncIterator[muxfs.Session]:
    config = muxfs.SessionConfig(**{"capacity": CAPACITY, **settings})
    mailboxes = mailboxes or storage(fs, role)
    async with muxfs.open_session("", role=role, config=config, storage=mailboxes) as session:
        yield session


@attrs.define
class Tunnel:
    """Both sides of a standing session."""

    fs: MemoryFilesystem
    listen: muxfs.Session
    dial: muxfs.Session

    async def stream_pair(self, target: str = "") -> tuple[muxfs.MuxStream, muxfs.MuxStream]:
        """Open a stream from dial to listen; return both ends."""
        ends: dict[str, muxfs.MuxStream] = {}
        listener = self.listen.listen()

        async def accept() -> None:
            ends["far"] = await listener.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            ends["near"] = await self.dial.open_stream(target)
        return ends["near"], ends["far"]


@asynccontextmanager
async def open_tunnel(fs: MemoryFilesystem | None = None, **settings: Any) -> AsyncIterator[Tunnel]:
    fs = fs or MemoryFilesystem()
    async with (
        open_side(fs, "listen", **settings) as listen,
        open_side(fs, "dial", **settings) as dial,
    ):
        await listen.wait_established()
        await dial.wait_established()
        yield Tunnel(fs, listen, dial)


class Life:
    """A side that can be killed: whatever it does after that, nothing of it reaches a file."""

    def __init__(self, fs: MemoryFilesystem, role: Literal["listen", "dial"]) -> None:
        self.fs = fs
        self.role = role
        self.mailboxes = storage(fs, role)
        self.session: muxfs.Session
        self._scope = trio.CancelScope()
        self._write = self.mailboxes.writer.write
        self._released = trio.Event()
        self._ended = trio.Event()

    async def live(self, settings: dict[str, Any], *, task_status: trio.TaskStatus[Life]) -> None:
        with self._scope:
            async with open_side(self.fs, self.role, self.mailboxes, **settings) as self.session:
                task_status.started(self)
                await trio.sleep_forever()
        self._ended.set()

    def cut(self) -> None:
        """Let all later writes hang, until `mend`."""

        async def hang(offset: int, buffers: Sequence[Buffer]) -> None:
            await self._released.wait()
            await self._write(offset, buffers)

        self.mailboxes.writer.write = hang  # type: ignore[method-assign]

    def mend(self) -> None:
        self.mailboxes.writer.write = self._write  # type: ignore[method-assign]
        self._released.set()

    def kill(self) -> None:
        """End it so that it cannot say a word."""
        self.cut()
        self._scope.cancel()

    async def leave(self) -> None:
        """End it in good order."""
        self._scope.cancel()
        await self._ended.wait()


async def start_life(
    nursery: trio.Nursery,
    fs: MemoryFilesystem,
    role: Literal["listen", "dial"],
    **settings: Any,
) -> Life:
    life: Life = await nursery.start(Life(fs, role).live, settings)
    return life


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(part) async for part in stream])
