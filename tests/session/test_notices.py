"""What the kernel tells of the peer's file spares looks at it, and nothing hangs on it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from muxfs import MuxStream
from muxfs.info import Lost, Silent
from muxfs.storage.base import Marker
from muxfs.storage.memory import MemoryReader
from muxfs.testing import MemoryFilesystem, MemoryStorage
from tests.session.tunnel import Tunnel, open_side, storage

pytestmark = pytest.mark.usefixtures("autojump_clock")


class ToldReader(MemoryReader):
    """A reader that the kernel tells of changes, as long as it does."""

    deaf = False

    @property
    def notifies(self) -> bool:
        return True

    async def watch(self, marker: Marker, nap: float, timeout: float) -> bool:
        deadline = trio.current_time() + timeout
        before = self._content()
        while trio.current_time() < deadline:
            await self._fs.changes(until=deadline)
            if not self.deaf and self._content() != before:
                return True
        return False

    async def notice(self) -> bool:
        return await self.watch(Marker(0, b""), 0, math.inf)

    def _content(self) -> bytes:
        file = self._fs.look_up(self._name)
        return file.read(0, file.size) if file is not None else b""


@asynccontextmanager
async def told_tunnel() -> AsyncIterator[tuple[Tunnel, ToldReader]]:
    """Yields also the reader of the listen side."""
    fs = MemoryFilesystem()

    def told(role: Literal["listen", "dial"]) -> tuple[MemoryStorage, ToldReader]:
        mailboxes = storage(fs, role)
        reader = ToldReader(fs, mailboxes.reader._name, mailboxes.operations, ["memory"])
        mailboxes.reader = reader
        return mailboxes, reader

    (near, reader), (far, _) = told("listen"), told("dial")
    async with open_side(fs, "listen", near) as listen, open_side(fs, "dial", far) as dial:
        await listen.wait_established()
        await dial.wait_established()
        yield Tunnel(fs, listen, dial), reader


async def send(near: MuxStream, far: MuxStream) -> float:
    """Bring a byte over; return how long it took."""
    began = trio.current_time()
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"
    return trio.current_time() - began


async def test_a_told_reader_needs_no_looks_in_between(autojump_clock: MockClock) -> None:
    async with told_tunnel() as (tunnel, _):
        near, far = await tunnel.stream_pair()
        async with near, far:
            assert await send(near, far) == 0
            before = tunnel.listen.storage.operations.reads
            await trio.sleep(20)
            assert tunnel.listen.storage.operations.reads - before < 40  # without: 100
            assert await send(near, far) == 0


async def test_a_beat_that_is_told_of_spares_looks_at_the_head(
    autojump_clock: MockClock,
) -> None:
    async with told_tunnel() as (tunnel, _):
        near, far = await tunnel.stream_pair()
        await send(near, far)
        await trio.sleep(60)
        sides = tunnel.listen.storage.operations, tunnel.dial.storage.operations
        before = [side.total for side in sides]
        await trio.sleep(600)
        # a poll a second; 120 to 134 beats of its own, and for each of the peer's a look at ring
        # and head; 30 looks at the own file, of two operations each
        for side, count in zip(sides, before, strict=True):
            assert side.total - count <= 600 + 3 * 134 + 60 + 10  # else 120 looks at the head more


async def test_a_peer_whose_beat_was_told_of_is_not_missed_for_longer(
    autojump_clock: MockClock,
) -> None:
    async with told_tunnel() as (tunnel, _):
        await trio.sleep(60)
        async with tunnel.listen.changes() as changes:
            began = trio.current_time()
            tunnel.dial.pump.stop()
            assert isinstance(await changes.receive(), Silent)
            assert trio.current_time() - began < 15 + 2.5 + 1.1
            assert isinstance(await changes.receive(), Lost)
            assert trio.current_time() - began < 60 + 2.5 + 1.1


async def test_what_is_not_told_comes_all_the_same(autojump_clock: MockClock) -> None:
    async with told_tunnel() as (tunnel, reader):
        near, far = await tunnel.stream_pair()
        async with near, far:
            await send(near, far)
            await trio.sleep(20)
            reader.deaf = True
            assert 0 < await send(near, far) < 1.1
            assert await send(near, far) < 0.01  # and from now on it is looked for as ever
            await trio.sleep(1)
            assert await send(near, far) < 0.3


async def test_a_peer_that_leaves_is_told_of_by_the_head(autojump_clock: MockClock) -> None:
    async with told_tunnel() as (tunnel, _):
        await trio.sleep(20)
        async with tunnel.listen.changes() as changes:
            began = trio.current_time()
            await tunnel.dial.shut_down(flush=True)
            assert isinstance(await changes.receive(), Lost)
            assert trio.current_time() - began < 0.1
