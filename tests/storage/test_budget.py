"""`--max-ops`: the bound holds for everything, and the session goes on."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import muxfs
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import open_side, open_tunnel

MIB = 1 << 20
LIMIT = 20.0


async def test_all_operations_of_a_side_stay_below_the_bound(autojump_clock: MockClock) -> None:
    """While it streams, in both directions: batches are larger then."""
    async with open_tunnel(max_ops=LIMIT) as tunnel, trio.open_nursery() as nursery:
        near, far = await tunnel.stream_pair()
        taken = 0

        async def take() -> None:
            nonlocal taken
            while True:
                taken += len(await far.receive_some())

        nursery.start_soon(take)
        nursery.start_soon(near.send_all, bytes(200 * MIB))
        await trio.sleep(5)
        sides = (tunnel.listen, tunnel.dial)
        before, taken = [side.storage.operations.total for side in sides], 0
        await trio.sleep(60)
        for side, count in zip(sides, before, strict=True):
            assert side.storage.operations.total - count <= 60 * LIMIT + LIMIT
            assert side.state.value == "established"
        assert taken > 60 * LIMIT / 10 * (64 << 10)
        nursery.cancel_scope.cancel()


async def test_all_that_is_allowed_is_used(autojump_clock: MockClock) -> None:
    """Where several reads are under way each is counted once."""
    slow = MemoryFilesystem(latency=0.02, bandwidth=100e6)
    async with open_tunnel(slow, max_ops=LIMIT) as tunnel, trio.open_nursery() as nursery:
        near, far = await tunnel.stream_pair()

        async def take() -> None:
            while True:
                await far.receive_some()

        nursery.start_soon(take)
        nursery.start_soon(near.send_all, bytes(400 * MIB))
        await trio.sleep(5)
        sides = (tunnel.listen, tunnel.dial)
        before = [side.storage.operations.total for side in sides]
        await trio.sleep(60)
        for side, count in zip(sides, before, strict=True):
            assert side.storage.operations.total - count >= 59 * LIMIT
        nursery.cancel_scope.cancel()


async def test_the_least_bound_keeps_a_session_up(autojump_clock: MockClock) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.01), max_ops=2) as tunnel:
        near, far = await tunnel.stream_pair()
        for _ in range(20):
            await near.send_all(b"x")
            with trio.fail_after(20):
                assert await far.receive_some() == b"x"
            await trio.sleep(30)
            assert tunnel.listen.state.value == tunnel.dial.state.value == "established"


async def test_beats_wait_for_no_bound(autojump_clock: MockClock) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.01), max_ops=2) as tunnel:
        near, far = await tunnel.stream_pair()
        changes = tunnel.listen.changes()
        tunnel.dial.storage.operations.metadata += 200  # as where the own file was made again
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        with pytest.raises(trio.WouldBlock):
            changes.receive_nowait()


async def test_the_last_words_wait_for_no_bound(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.01)
    async with open_side(fs, "listen") as listen:
        changes = listen.changes()
        async with open_side(fs, "dial", max_ops=2) as dial:
            await dial.wait_established()
            await trio.sleep(1)
            dial.storage.operations.metadata += 100  # as where the own file was made again
            dial.start_stream()
            await trio.sleep(1)
        with trio.fail_after(10):
            while not isinstance(change := await changes.receive(), muxfs.Lost):
                pass
        assert change.code is muxfs.Code.SHUTDOWN


@pytest.mark.parametrize(("bound", "heartbeat"), [(1.9, 5), (0, 5), (float("nan"), 5), (5, 1)])
def test_a_bound_too_low_to_live_with(bound: float, heartbeat: float) -> None:
    with pytest.raises(ValueError, match="max_ops must be"):
        muxfs.SessionConfig(max_ops=bound, heartbeat=heartbeat)
