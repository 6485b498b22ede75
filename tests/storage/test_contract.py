"""What `Storage` promises, on real files with each strategy and in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints

from muxfs.core.wire import HEAD_LENGTH
from muxfs.storage.access import Access
from muxfs.storage.base import FileCondition, Marker, Storage
from muxfs.storage.memory import MemoryFilesystem
from muxfs.storage.posix import PosixStorage

from .conftest import PATIENCE, held_open, os_error, wait_until

SIZE = 3 * 65536 + 1000

ACCESS = [
    "default",
    "held+plain",
    "cached+plain",
    "direct+dsync",
    "dontneed+fdatasync",
    "statx+close",
    "reopen+close",
]


class Files:
    """Mailboxes as real files, and what somebody else may do to them."""

    def __init__(self, directory: Path, access: str) -> None:
        self.directory = directory
        self.access = access

    def storage(self, own: str, peer: str) -> Storage:
        access = None if self.access == "default" else Access.named(self.access)
        return PosixStorage(self.directory, own, peer, access)

    def unlink(self, name: str) -> None:
        os.unlink(self.directory / name)

    def replace(self, name: str, content: bytes) -> None:
        (self.directory / "new").write_bytes(content)
        os.rename(self.directory / "new", self.directory / name)

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.directory / name, size)

    def remove_directory(self) -> None:
        for entry in os.listdir(self.directory):
            self.unlink(entry)
        os.rmdir(self.directory)

    def content(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


class Memory:
    """The same in memory."""

    def __init__(self) -> None:
        self.fs = MemoryFilesystem()

    def storage(self, own: str, peer: str) -> Storage:
        return self.fs.storage(own, peer)

    def unlink(self, name: str) -> None:
        self.fs.unlink(name)

    def replace(self, name: str, content: bytes) -> None:
        self.fs.create(name).write(0, [content])

    def truncate(self, name: str, size: int) -> None:
        self.fs.files[name].truncate(size)

    def remove_directory(self) -> None:
        self.fs.gone = True

    def content(self, name: str) -> bytes:
        file = self.fs.files[name]
        return file.read(0, file.size)


World = Files | Memory


@pytest.fixture(params=["memory", *(f"{d}:{a}" for d in ("tmpfs", "disk") for a in ACCESS)])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return Memory()
    kind, _, access = request.param.partition(":")
    parent = request.getfixturevalue("memory_path" if kind == "tmpfs" else "tmp_path")
    (parent / "tunnel").mkdir()
    return Files(parent / "tunnel", access)


@pytest.fixture
async def pair(world: World):
    """Both sides, prepared; no descriptor may be left when they are closed."""
    near, far = world.storage("near", "far"), world.storage("far", "near")
    with trio.fail_after(PATIENCE):
        await near.writer.prepare(SIZE)
        await far.writer.prepare(SIZE)
    yield near, far
    await near.aclose()
    await far.aclose()
    if isinstance(world, Files):
        assert held_open(world.directory) == []


async def test_new_mailbox_is_all_zeros(world: World) -> None:
    near = world.storage("near", "far")

    head = await near.writer.prepare(SIZE)

    assert head == bytes(HEAD_LENGTH)
    assert world.content("near") == bytes(SIZE)
    await near.aclose()


async def test_previous_life_is_kept_and_grown(world: World) -> None:
    old = bytes(range(256)) * 100
    world.replace("near", old)
    near = world.storage("near", "far")

    head = await near.writer.prepare(SIZE)

    assert head == old[:HEAD_LENGTH]
    assert world.content("near") == old + bytes(SIZE - len(old))
    await near.aclose()


async def test_head_of_a_short_previous_life_is_padded(world: World) -> None:
    world.replace("near", b"cut off")
    near = world.storage("near", "far")

    assert await near.writer.prepare(SIZE) == b"cut off".ljust(HEAD_LENGTH, b"\0")
    await near.aclose()


async def test_longer_previous_life_is_not_cut(world: World) -> None:
    world.replace("near", b"x" * (SIZE + 5))
    near = world.storage("near", "far")

    await near.writer.prepare(SIZE)

    assert world.content("near") == b"x" * (SIZE + 5)
    await near.aclose()


async def test_progress_rises_to_the_whole(world: World) -> None:
    seen: list[tuple[int, int]] = []
    near = world.storage("near", "far")

    await near.writer.prepare(5 << 20, lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1] == (5 << 20, 5 << 20)
    await near.aclose()


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 70000, SIZE - 10])
async def test_what_one_side_writes_the_other_reads(pair, offset: int) -> None:
    near, far = pair
    await near.writer.write(offset, [b"ab", bytearray(b"cde"), memoryview(b"fghij"), b""])

    assert await far.reader.read(offset, 10) == b"abcdefghij"
    assert await near.writer.read_back(offset, 10) == b"abcdefghij"
    assert await near.reader.read(offset, 10) == bytes(10)  # the other file is another file


async def test_overwriting_in_place_is_seen_every_time(pair) -> None:
    near, far = pair
    for number in range(50):
        value = number.to_bytes(8, "big")
        await near.writer.write(16384, [value])
        assert await far.reader.read(16384, 8) == value


async def test_read_is_short_at_the_end_and_empty_beyond(pair) -> None:
    near, far = pair
    await near.writer.write(SIZE - 3, [b"end"])

    assert await far.reader.read(SIZE - 3, 100) == b"end"
    assert await far.reader.read(SIZE, 100) == b""
    assert await far.reader.read(SIZE + 12345, 100) == b""
    assert await near.writer.read_back(SIZE - 3, 100) == b"end"


async def test_big_write_of_many_buffers(pair) -> None:
    near, far = pair
    buffers = [bytes([number % 251]) * 37 for number in range(3000)]  # more than IOV_MAX
    await near.writer.write(5, buffers)

    assert await far.reader.read(5, 37 * 3000) == b"".join(buffers)


async def test_peer_file_that_appears_late(world: World) -> None:
    near, far = world.storage("near", "far"), world.storage("far", "near")

    assert await far.reader.read(0, 10) == b""
    assert not await far.reader.watch(Marker(0, b"here"), nap=0.001, timeout=PATIENCE)
    await far.reader.refresh()
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"here"])

    assert await far.reader.read(0, 4) == b"here"
    await near.aclose()
    await far.aclose()


async def test_a_name_that_leads_nowhere_is_looked_up_by_reads_alone(world: World) -> None:
    storage = world.storage("far", "near")
    await storage.reader.read(0, 10)
    before = storage.operations.total

    await storage.reader.refresh()

    assert storage.operations.total == before
    await storage.aclose()


async def test_reader_in_a_missing_directory(world: World) -> None:
    world.remove_directory()
    near = world.storage("near", "far")

    assert await near.reader.read(0, 10) == b""
    await near.reader.refresh()
    with pytest.raises(FileNotFoundError):
        await near.writer.prepare(SIZE)
    await near.aclose()


@pytest.mark.parametrize("held", [False, True])
async def test_watch_sees_what_stands_there_already(pair, held: bool) -> None:
    near, far = pair
    if held:
        await far.reader.read(0, 1)
    await near.writer.write(777, [b"news"])

    assert await far.reader.watch(Marker(777, b"news"), nap=1, timeout=PATIENCE)


async def test_watch_sees_what_is_written_meanwhile(pair) -> None:
    near, far = pair
    seen = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch() -> None:
                seen.append(await far.reader.watch(Marker(777, b"news"), 0.001, 10 * PATIENCE))

            await wait_until(lambda: far.operations.reads)  # it is under way
            await near.writer.write(777, [b"new"])
            await near.writer.write(780, [b"s"])

    assert seen == [True]


@pytest.mark.parametrize("length", [4096, 65536])
async def test_a_read_waits_for_what_is_written_meanwhile(pair, length: int) -> None:
    near, far = pair
    seen = []
    marker = Marker(777, b"news")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                seen.append(await far.reader.read_until(700, length, marker, 0.001, 10 * PATIENCE))

            await wait_until(lambda: far.operations.reads)  # it is under way
            await near.writer.write(777 + 1000, [b"with what follows"])
            await near.writer.write(777, [b"news"])

    assert len(seen[0]) == length
    assert seen[0][77:81] == b"news"
    assert seen[0][1077:].startswith(b"with what follows")


async def test_a_read_that_waits_gives_up(pair) -> None:
    near, far = pair
    await near.writer.write(700, [b"old"])
    for timeout in (0.0, 0.02):
        data = await far.reader.read_until(700, 65536, Marker(777, b"news"), 0.001, timeout)
        assert len(data) == 65536
        assert data.startswith(b"old")


async def test_a_read_that_rests_first_looks_later(pair) -> None:
    near, far = pair
    await far.reader.read(0, 1)
    before = far.operations.reads
    marker = Marker(777, b"news")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.reader.read_until, 700, 4096, marker, 0.001, 1.0, 10 * PATIENCE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert far.operations.reads == before

    await near.writer.write(777, [b"news"])
    data = await far.reader.read_until(700, 4096, marker, 0.001, 1.0, rest=0.001)
    assert data[77:81] == b"news"


async def test_watch_gives_up(pair) -> None:
    _, far = pair

    assert not await far.reader.watch(Marker(777, b"news"), nap=0.001, timeout=0.02)
    assert not await far.reader.watch(Marker(777, b"news"), nap=0.001, timeout=0)


@pytest.mark.parametrize("name", ["near", "far"])
async def test_intact(pair, name: str) -> None:
    near, far = pair
    storage = {"near": near, "far": far}[name]
    await storage.writer.write(0, [b"content does not matter"])

    assert await storage.writer.inspect() is FileCondition.INTACT


async def test_unlinked_file_is_found_and_made_again(world: World, pair) -> None:
    near, far = pair
    await near.writer.write(0, [b"old"])
    assert await far.reader.read(0, 3) == b"old"
    world.unlink("near")
    assert await near.writer.inspect() is FileCondition.MISSING

    await near.writer.recreate()

    assert await near.writer.inspect() is FileCondition.INTACT
    assert world.content("near") == bytes(SIZE)
    await near.writer.write(0, [b"new"])
    assert await far.reader.read(0, 3) == b"old"  # a held file goes on until one looks again
    await far.reader.refresh()
    assert await far.reader.read(0, 3) == b"new"


async def test_replaced_file_is_found_and_taken_over(world: World, pair) -> None:
    near, far = pair
    world.replace("near", b"garbage")
    assert await near.writer.inspect() is FileCondition.REPLACED

    await near.writer.recreate()

    assert await near.writer.inspect() is FileCondition.INTACT
    assert world.content("near") == b"garbage" + bytes(SIZE - 7)
    await near.writer.write(0, [b"healed."])
    await far.reader.refresh()
    assert await far.reader.read(0, 8) == b"healed.\0"


async def test_truncated_file_is_found_and_filled(world: World, pair) -> None:
    near, far = pair
    await near.writer.write(0, [b"kept"])
    assert await far.reader.read(0, 4) == b"kept"
    world.truncate("near", 100)
    assert await near.writer.inspect() is FileCondition.SHORT
    assert await far.reader.read(50, 1000) == bytes(50)
    assert await far.reader.read(4096, 4) == b""

    await near.writer.recreate()

    assert await near.writer.inspect() is FileCondition.INTACT
    assert world.content("near") == b"kept" + bytes(SIZE - 4)
    assert await far.reader.read(4096, 4) == bytes(4)


async def test_missing_directory(world: World, pair) -> None:
    near, _ = pair
    world.remove_directory()

    assert await near.writer.inspect() is FileCondition.MISSING
    with pytest.raises(FileNotFoundError):
        await near.writer.recreate()
    await near.writer.write(0, [b"into the orphan"])  # no error: held files go on


async def test_refresh_keeps_the_file_where_the_name_leads_nowhere(world: World, pair) -> None:
    near, far = pair
    await near.writer.write(0, [b"old"])
    assert await far.reader.read(0, 3) == b"old"
    world.unlink("near")

    await far.reader.refresh()

    assert await far.reader.read(0, 3) == b"old"


async def test_every_method_is_a_checkpoint(pair) -> None:
    near, far = pair
    await far.reader.read(0, 1)
    for call in (
        lambda: far.reader.read(0, 10),
        lambda: far.reader.watch(Marker(0, b"\0"), 1, 1),
        far.reader.refresh,
        lambda: near.writer.write(0, [b"x"]),
        lambda: near.writer.read_back(0, 10),
        near.writer.inspect,
        near.writer.recreate,
        near.aclose,
        near.aclose,
    ):
        with assert_checkpoints():
            await call()


async def test_cancelled_beforehand_does_nothing(world: World, pair) -> None:
    near, far = pair
    await far.reader.read(0, 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.writer.write(0, [b"never"])
        raise AssertionError("not cancelled")
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.reader.read(0, 5)
        raise AssertionError("not cancelled")
    assert world.content("near") == bytes(SIZE)


async def test_operations_are_counted(pair) -> None:
    near, far = pair
    await far.reader.read(0, 1)
    before = (near.operations.writes, far.operations.reads)
    await near.writer.write(0, [b"x", b"y"])
    await far.reader.read(0, 1)
    await far.reader.read(0, 1)

    assert (near.operations.writes, far.operations.reads) == (before[0] + 1, before[1] + 2)
    assert near.operations.total >= near.operations.writes + near.operations.metadata > 0


async def test_closed(pair) -> None:
    near, far = pair
    await far.reader.read(0, 1)
    for storage in (near, far, near, far):
        await storage.aclose()

    assert await far.reader.read(0, 1) == b""
    assert not await far.reader.watch(Marker(0, b"\0"), 0.001, 0.01)
    await far.reader.refresh()
    assert await far.reader.read(0, 1) == b""
    for call in (
        lambda: near.writer.write(0, [b"x"]),
        lambda: near.writer.read_back(0, 1),
        near.writer.inspect,
        near.writer.recreate,
    ):
        with os_error(errno.EBADF):
            await call()


async def test_cancelled_aclose_closes(world: World, pair) -> None:
    near, _ = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.writer.aclose()

    with os_error(errno.EBADF):
        await near.writer.write(0, [b"x"])


async def test_cancelled_aclose_closes_both_files(world: World, pair) -> None:
    near, far = pair
    assert await far.reader.read(0, 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.aclose()

    assert await far.reader.read(0, 1) == b""
    await near.aclose()


def test_describe(world: World) -> None:
    description = world.storage("near", "far").describe()

    assert description
    if isinstance(world, Files):
        assert str(world.directory) in description
