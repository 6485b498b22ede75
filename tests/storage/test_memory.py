"""The in-memory storage in simulated time."""

from __future__ import annotations

import errno
import random

import pytest
import trio
from trio.testing import MockClock

import muxfs.testing
from muxfs.storage.base import FileCondition, Marker
from muxfs.testing import (
    FrozenView,
    MemoryFilesystem,
    MemoryStorage,
    random_tear,
    random_versions,
)

from .conftest import os_error

SIZE = 65536
NEWS = Marker(777, b"news")


async def pair(fs: MemoryFilesystem) -> tuple[MemoryStorage, MemoryStorage]:
    near, far = fs.storage("near", "far"), fs.storage("far", "near")
    await near.writer.prepare(SIZE)
    await far.writer.prepare(SIZE)
    return near, far


def test_everything_exported_exists() -> None:
    assert all(hasattr(muxfs.testing, name) for name in muxfs.testing.__all__)


async def test_without_faults_no_time_passes(autojump_clock: MockClock) -> None:
    near, far = await pair(MemoryFilesystem())
    await near.writer.write(777, [b"news"])
    assert await far.reader.watch(NEWS, nap=1, timeout=10)
    await near.writer.inspect()

    assert trio.current_time() == 0
    assert not far.reader.immediate


async def test_latency(autojump_clock: MockClock) -> None:
    near, far = await pair(MemoryFilesystem(latency=0.25))
    assert trio.current_time() == 0.5
    await near.writer.write(0, [b"x"])
    await far.reader.read(0, 1)

    assert trio.current_time() == 1.0


async def test_a_write_is_seen_after_the_delay_and_in_order(autojump_clock: MockClock) -> None:
    near, far = await pair(MemoryFilesystem(visibility=5))
    await near.writer.write(0, [b"old"])
    await trio.sleep(1)
    await near.writer.write(0, [b"new"])

    assert await near.writer.read_back(0, 3) == b"new"  # the server has it
    seen = []
    for _ in range(3):
        seen.append(await far.reader.read(0, 3))
        await trio.sleep(4 if len(seen) == 1 else 1)
    assert seen == [b"\0\0\0", b"old", b"new"]


async def test_no_delay_any_more_keeps_the_order() -> None:
    fs = MemoryFilesystem(visibility=5)
    near, far = await pair(fs)
    await near.writer.write(0, [b"old"])
    fs.visibility = 0
    await near.writer.write(0, [b"new"])

    assert await far.reader.read(0, 3) == b"new"


@pytest.mark.parametrize("visibility", [0, 0.125, 3])
async def test_watch_is_woken_by_the_write(autojump_clock: MockClock, visibility: float) -> None:
    near, far = await pair(MemoryFilesystem(visibility=visibility))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def watch() -> None:
            assert await far.reader.watch(NEWS, nap=0.5, timeout=1000)
            assert trio.current_time() == 100 + visibility

        await trio.sleep(100)
        await near.writer.write(0, [b"something else"])
        await near.writer.write(777, [b"news"])

    naps = 200 + visibility / 0.5
    assert naps - 2 <= far.operations.reads <= naps + 4


async def test_watch_gives_up_and_counts_its_naps(autojump_clock: MockClock) -> None:
    _, far = await pair(MemoryFilesystem())
    assert not await far.reader.watch(NEWS, nap=0.5, timeout=60)

    assert trio.current_time() == 60
    assert 119 <= far.operations.reads <= 122


async def test_watch_sees_what_becomes_visible_as_it_ends(autojump_clock: MockClock) -> None:
    near, far = await pair(MemoryFilesystem(visibility=5))
    await near.writer.write(777, [b"news"])

    assert await far.reader.watch(NEWS, nap=1, timeout=5)


async def test_watch_polls_on_where_pages_may_be_old(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(versions=2)
    near, far = await pair(fs)
    ages = iter([1, 1, 1, 0])
    fs.choose = lambda _page, versions: min(next(ages), versions - 1)
    await near.writer.write(777, [b"news"])

    assert await far.reader.watch(NEWS, nap=0.5, timeout=1000)
    assert trio.current_time() == 1.5


@pytest.mark.parametrize("nap", [0, 1])
async def test_watch_of_a_missing_file_is_paced(autojump_clock: MockClock, nap: float) -> None:
    far = MemoryFilesystem().storage("far", "near")
    assert not await far.reader.watch(NEWS, nap=nap, timeout=1000)

    assert 0 < trio.current_time() <= 1


async def test_watch_does_not_raise(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    _, far = await pair(fs)
    fs.files["near"].fail("read", errno.EIO)

    assert not await far.reader.watch(NEWS, nap=1, timeout=1000)
    assert trio.current_time() == 1


async def test_stopped_server_hangs_all_until_it_resumes(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    near, far = await pair(fs)
    await far.reader.read(0, 3)
    fs.stop()
    done = []
    async with trio.open_nursery() as nursery:
        for call in (
            lambda: near.writer.write(0, [b"new"]),
            lambda: far.reader.read(0, 3),
            near.writer.inspect,
            far.reader.refresh,
        ):

            @nursery.start_soon
            async def run(call=call) -> None:
                await call()
                done.append(trio.current_time())

        await trio.sleep(20)
        assert done == []
        assert fs.files["near"].read(0, 3) == bytes(3)
        fs.resume()

    assert done == [20] * 4
    assert await far.reader.read(0, 3) == b"new"


async def test_hanging_calls_can_be_cancelled(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    near, far = await pair(fs)
    fs.stop()
    for call in (lambda: near.writer.write(0, [b"x"]), lambda: far.reader.read(0, 3)):
        with trio.move_on_after(1) as scope:
            await call()
        assert scope.cancelled_caught
    await near.aclose()  # waits for no server
    fs.resume()

    assert await far.reader.read(0, 1) == b"\0"


async def test_write_cut_off_is_torn_as_asked(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=1, tear=lambda length: [(0, 2), (length - 1, length)])
    near, _ = await pair(fs)
    with trio.move_on_after(0.5):
        await near.writer.write(10, [b"abc", b"def"])

    assert fs.files["near"].read(10, 6) == b"ab\0\0\0f"


async def test_errors(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    near, far = await pair(fs)
    assert await far.reader.read(0, 1) == b"\0"
    file = fs.files["near"]
    for visibility in (0, 1):
        fs.visibility = visibility
        file.fail("write", errno.EDQUOT)
        with os_error(errno.EDQUOT):
            await near.writer.write(0, [b"x"])
    file.fail("read", errno.EIO)
    with os_error(errno.EIO):
        await far.reader.read(0, 1)
    file.fail("read", errno.ESTALE)
    assert await far.reader.read(0, 1) == b""
    assert await far.reader.read(0, 1) == b"\0"


async def test_full(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(capacity=SIZE + 100)
    near, far = fs.storage("near", "far"), fs.storage("far", "near")
    await near.writer.prepare(SIZE)
    with os_error(errno.ENOSPC):
        await far.writer.prepare(SIZE)
    assert "far" not in fs.files

    await near.writer.write(0, [b"x" * SIZE])  # what was prepared goes on working
    fs.files["near"].truncate(10)
    fs.capacity = 100
    assert await near.writer.inspect() is FileCondition.SHORT
    with os_error(errno.ENOSPC):
        await near.writer.recreate()
    assert fs.files["near"].size == 10


async def test_held_files_outlive_their_directory() -> None:
    fs = MemoryFilesystem()
    near, far = await pair(fs)
    await far.reader.read(0, 1)
    fs.gone = True
    await near.writer.write(0, [b"x"])
    assert await far.reader.read(0, 1) == b"x"

    fs.gone = False
    assert await near.writer.inspect() is FileCondition.INTACT


async def scenario(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    fs = MemoryFilesystem(
        latency=0.01,
        visibility=0.02,
        versions=4,
        choose=random_versions(rng),
        tear=random_tear(rng),
    )
    near, far = await pair(fs)
    seen = []
    for number in range(40):
        with trio.move_on_after(0.015 if number % 3 else 0.005):
            await near.writer.write(rng.randrange(9000), [rng.randbytes(9000)])
        seen.append(await far.reader.read(0, 20000))
    return seen


def run_scenario(seed: int) -> list[bytes]:
    return trio.run(scenario, seed, clock=MockClock(autojump_threshold=0))


def test_faults_are_deterministic() -> None:
    assert run_scenario(1) == run_scenario(1) != run_scenario(2)


async def test_a_strategy_whose_view_is_frozen(autojump_clock: MockClock) -> None:
    frozen = FrozenView()
    fs = MemoryFilesystem(views={"held": frozen})
    near, far = fs.storage("near", "far"), fs.storage("far", "near", reads=("held", "direct"))
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"old"])
    assert await far.reader.read(0, 3) == b"old"
    await near.writer.write(0, [b"new"])

    assert await far.reader.read(0, 3) == b"old"
    assert far.reader.others == ["direct"]
    assert await far.reader.read_by("direct", [(0, 3), (1, 2)]) == [b"new", b"ew"]
    assert await far.reader.read(0, 3) == b"old"
    frozen.forget()
    assert await far.reader.read(0, 3) == b"new"

    await near.writer.write(0, [b"end"])
    await far.reader.adopt("direct")
    assert await far.reader.read(0, 3) == b"end"
    assert far.strategy == "direct+memory"


async def test_a_strategy_whose_writes_nobody_sees(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(unseen={"plain"})
    near = fs.storage("near", "far", writes=("plain", "dsync"))
    far = fs.storage("far", "near")
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"new"])
    assert await far.reader.read(0, 3) == bytes(3)

    assert near.writer.stronger == "dsync"
    await near.writer.adopt("dsync")
    assert near.writer.stronger is None
    await near.writer.write(0, [b"new"])
    assert await far.reader.read(0, 3) == b"new"
    assert near.strategy == "memory+dsync"
