"""Worker threads: one hop per call, and what hangs stops nothing but itself."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from muxfs.storage.access import Access, DirectRead, DsyncWrite, FdatasyncWrite, HeldRead
from muxfs.storage.base import FileCondition, Marker
from muxfs.storage.crew import Crew
from muxfs.storage.files import PIECE, Handle
from muxfs.storage.ground import THREADS
from muxfs.storage.posix import PosixStorage
from muxfs.storage.ranges import WHOLE

from .conftest import (
    PATIENCE,
    Gate,
    GatedRead,
    GatedWrite,
    held_open,
    os_error,
    wait_threads_gone,
    wait_until,
)

SIZE = 65536


@pytest.fixture
async def hops(monkeypatch) -> list[object]:
    """A list that grows with each hop to a worker thread."""
    taken: list[object] = []
    run = Crew.run

    async def spy(crew, job):
        taken.append(job)
        return await run(crew, job)

    monkeypatch.setattr(Crew, "run", spy)
    return taken


async def test_each_call_is_one_hop(tmp_path: Path, hops: list[object]) -> None:
    near = PosixStorage(tmp_path, "near", "far", Access(DirectRead(), DsyncWrite()))
    far = PosixStorage(tmp_path, "far", "near", Access(DirectRead(), DsyncWrite()))
    for call in (
        lambda: near.writer.prepare(SIZE),
        lambda: near.writer.write(0, [b"x"] * 3000),
        lambda: near.writer.read_back(0, 10),
        near.writer.inspect,
        near.writer.recreate,
        lambda: far.reader.read(0, 10),  # looks it up, too
        lambda: far.reader.read(0, 10),
        lambda: far.reader.watch(Marker(0, b"never"), 0.001, 0.02),
        far.reader.refresh,
    ):
        hops.clear()
        await call()
        assert len(hops) == 1
    await near.aclose()
    await far.aclose()


async def test_memory_takes_no_hop(memory_path: Path, hops: list[object]) -> None:
    near, far = PosixStorage(memory_path, "near", "far"), PosixStorage(memory_path, "far", "near")
    await near.writer.prepare(SIZE)
    await far.reader.read(0, 1)
    hops.clear()
    await near.writer.write(0, [b"fast"])
    assert await far.reader.read(0, 4) == b"fast"

    assert hops == []
    await near.aclose()
    await far.aclose()


async def test_cached_pages_of_a_disk_take_no_hop(tmp_path: Path, hops: list[object]) -> None:
    near, far = PosixStorage(tmp_path, "near", "far"), PosixStorage(tmp_path, "far", "near")
    await near.writer.prepare(SIZE)
    await far.reader.read(0, 1)
    await near.writer.write(0, [b"fast"])
    hops.clear()
    assert await far.reader.read(0, 4) == b"fast"
    if not far.reader.immediate:
        pytest.skip("the filesystem of the temporary files has no RWF_NOWAIT")

    assert hops == []
    await near.aclose()
    await far.aclose()


async def test_hung_read_stops_nothing_else(tmp_path: Path) -> None:
    gate = Gate()
    stuck = PosixStorage(tmp_path, "far", "near", Access(GatedRead(gate), FdatasyncWrite()))
    (tmp_path / "near").write_bytes(b"x" * SIZE)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.reader.read, 0, 10)
            await gate.wait_entered()

            other = PosixStorage(tmp_path, "other", "near", Access(HeldRead(), FdatasyncWrite()))
            assert await other.reader.read(0, 3) == b"xxx"
            await other.aclose()
            nursery.cancel_scope.cancel()

        assert stuck._ground.crew.limiter.borrowed_tokens == 1  # its thread hangs still
        await stuck.aclose()  # waits for nobody
        assert held_open(tmp_path) == ["near"]  # its descriptor must not become another file's
        gate.opened.set()
        await wait_threads_gone(stuck)
    assert held_open(tmp_path) == []


async def test_hung_threads_are_bounded(tmp_path: Path) -> None:
    gate = Gate()
    stuck = PosixStorage(tmp_path, "far", "near", Access(GatedRead(gate), FdatasyncWrite()))
    (tmp_path / "near").write_bytes(b"x" * SIZE)
    with trio.fail_after(PATIENCE):
        for _ in range(THREADS):
            gate.entered.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stuck.reader.read, 0, 10)
                await gate.wait_entered()
                nursery.cancel_scope.cancel()
        gate.entered.clear()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stuck.reader.read, 0, 10)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await stuck.aclose()
        assert stuck._ground.crew.limiter.borrowed_tokens == THREADS
        assert not gate.entered.is_set()
        gate.opened.set()
        await wait_threads_gone(stuck)
    assert held_open(tmp_path) == []


async def test_hung_close_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    gate = Gate()
    close = Handle.close
    near = PosixStorage(tmp_path, "near", "far")
    await near.writer.prepare(SIZE)

    def hang(handle: Handle) -> None:
        gate.enter()
        close(handle)

    monkeypatch.setattr(Handle, "close", hang)
    with trio.fail_after(PATIENCE):
        await near.aclose()
    assert gate.entered.is_set()
    gate.opened.set()
    await wait_until(lambda: not held_open(tmp_path))


async def test_without_a_thread_watching_ends_and_closing_goes_on(
    tmp_path: Path, monkeypatch
) -> None:
    near = PosixStorage(tmp_path, "near", "far", Access(DirectRead(), DsyncWrite()))
    await near.writer.prepare(SIZE)
    far = PosixStorage(tmp_path, "far", "near", Access(DirectRead(), DsyncWrite()))

    async def none_left(*_arguments, **_options):
        raise RuntimeError("can't start new thread")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", none_left)
        patch.setattr(threading.Thread, "start", refuse)
        with os_error(errno.EAGAIN):
            await far.reader.read(0, 1)
        assert not await far.reader.watch(Marker(0, b"never"), 0.001, 0.001)
        await near.aclose()
    with os_error(errno.EBADF):
        await near.writer.write(0, [b"x"])
    await far.aclose()


async def test_cancelled_watch_leaves_no_running_thread(tmp_path: Path) -> None:
    (tmp_path / "near").write_bytes(bytes(SIZE))
    far = PosixStorage(tmp_path, "far", "near")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.reader.watch, Marker(0, b"never"), 3600, 3600)
            await wait_until(lambda: far.operations.reads)
            nursery.cancel_scope.cancel()
        await wait_threads_gone(far)
    await far.aclose()


@pytest.mark.parametrize("held", [False, True])
async def test_watch_ends_when_the_reader_is_closed(tmp_path: Path, held: bool) -> None:
    (tmp_path / "near").write_bytes(bytes(SIZE))
    far = PosixStorage(tmp_path, "far", "near")
    if held:
        await far.reader.read(0, 1)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.reader.watch, Marker(0, b"never"), 0.001, 3600)
            await wait_until(lambda: far.operations.reads)
            await far.aclose()
    assert held_open(tmp_path) == []


async def gated_writer(tmp_path: Path, gate: Gate) -> PosixStorage:
    near = PosixStorage(tmp_path, "near", "far", Access(HeldRead(), GatedWrite(gate)))
    await near.writer.prepare(SIZE)
    return near


async def test_abandoned_write_never_lands_after_a_later_one(tmp_path: Path) -> None:
    gate = Gate()
    near = await gated_writer(tmp_path, gate)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.write, 0, [b"stuck"])
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.write, 0, [b"later"])
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        await wait_threads_gone(near)
    assert (tmp_path / "near").read_bytes()[:5] == b"later"
    await near.aclose()


async def test_abandoned_write_that_has_not_begun_never_begins(tmp_path: Path) -> None:
    gate = Gate()
    near = await gated_writer(tmp_path, gate)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.write, 0, [b"stuck"])
            await gate.wait_entered()
            async with trio.open_nursery() as inner:
                inner.start_soon(near.writer.write, 0, [b"never"])
                await trio.testing.wait_all_tasks_blocked()
                inner.cancel_scope.cancel()
            gate.opened.set()
        await wait_threads_gone(near)
    assert (tmp_path / "near").read_bytes()[:5] == b"stuck"
    await near.aclose()


async def test_writes_of_other_bytes_do_not_wait_for_one_that_hangs(tmp_path: Path) -> None:
    gate = Gate()
    near = await gated_writer(tmp_path, gate)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.write, 0, [b"stuck"])
            await gate.wait_entered()
            await near.writer.write(5, [b"beside"])
            assert (tmp_path / "near").read_bytes()[:11] == bytes(5) + b"beside"
            gate.opened.set()
    assert (tmp_path / "near").read_bytes()[:11] == b"stuckbeside"
    await near.aclose()


async def test_a_write_that_is_begun_does_not_wait_for_its_task(tmp_path: Path) -> None:
    near = await gated_writer(tmp_path, Gate())
    begun = near.writer.begin_write(3, [b"at once"])
    assert begun is not None
    deadline = time.monotonic() + PATIENCE
    while (tmp_path / "near").read_bytes()[3:10] != b"at once":
        assert time.monotonic() < deadline
    await begun
    await near.aclose()


async def test_inline_write_never_waits_for_a_thread(memory_path: Path) -> None:
    near = PosixStorage(memory_path, "near", "far")
    await near.writer.prepare(SIZE)
    assert near.writer._writing.try_acquire(WHOLE)  # as a recreate in a thread does
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.write, 0, [b"later"])
            await trio.testing.wait_all_tasks_blocked()
            assert (memory_path / "near").read_bytes()[:5] == bytes(5)
            near.writer._writing.release(WHOLE)
    assert (memory_path / "near").read_bytes()[:5] == b"later"
    await near.aclose()


async def test_cancelled_prepare_stops_and_leaves_nothing_open(directory: Path) -> None:
    gate = Gate()
    pieces: list[int] = []

    def progress(done: int, _total: int) -> None:
        pieces.append(done)
        if done:
            gate.enter()

    near = PosixStorage(directory, "near", "far")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.writer.prepare, 8 * PIECE, progress)
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
        gate.opened.set()
        await wait_threads_gone(near)

    assert pieces == [0, PIECE]
    assert held_open(directory) == []
    assert await near.writer.prepare(SIZE) is not None  # and it can be done again
    assert await near.writer.inspect() is FileCondition.INTACT
    await near.aclose()


async def test_prepare_cancelled_at_its_very_end_holds_nothing(directory: Path) -> None:
    gate = Gate()
    near = PosixStorage(directory, "near", "far")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                near.writer.prepare,
                SIZE,
                lambda done, total: gate.enter() if done == total else None,
            )
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
        gate.opened.set()
        await wait_threads_gone(near)

    assert held_open(directory) == []


async def test_late_look_up_does_not_replace_a_newer_file(tmp_path: Path) -> None:
    (tmp_path / "near").write_bytes(b"old")
    gate = Gate()

    class GatedOpen(HeldRead):
        hang = True

        def open(self, path: str, flags: int) -> int:
            descriptor = super().open(path, flags)
            if GatedOpen.hang:
                GatedOpen.hang = False
                gate.enter()
            return descriptor

    far = PosixStorage(tmp_path, "far", "near", Access(GatedOpen(), FdatasyncWrite()))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.reader.read, 0, 3)
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").rename(tmp_path / "near")
        assert await far.reader.read(0, 3) == b"new"
        gate.opened.set()
        await wait_threads_gone(far)
    assert await far.reader.read(0, 3) == b"new"
    assert held_open(tmp_path) == ["near"]
    await far.aclose()
    assert held_open(tmp_path) == []


def test_handle_is_closed_by_its_last_user(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        handle = Handle(os.dup(file.fileno()))
        with handle as first:
            with handle as second:
                handle.close()
                assert os.fstat(first) == os.fstat(second)
            assert os.fstat(first)
        with os_error(errno.EBADF):
            os.fstat(first)
        with os_error(errno.ESTALE), handle:
            pass
        handle.close()
