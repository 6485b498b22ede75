"""What is particular to real files: opening, owners, holes, full disks, descriptors."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from muxfs.core.wire import HEAD_LENGTH
from muxfs.storage.access import Access, DirectRead, DsyncWrite, HeldRead, PlainWrite
from muxfs.storage.base import FileCondition, Marker
from muxfs.storage.choices import Kind
from muxfs.storage.files import PIECE
from muxfs.storage.filesystem import Filesystem, find_filesystem
from muxfs.storage.posix import SHOWN, PosixStorage

from .conftest import PATIENCE, held_open, os_error

SIZE = 2 * PIECE + 5000


def remote() -> Access:
    """What a network filesystem gets."""
    return Access(DirectRead(), DsyncWrite())


@pytest.fixture(params=[None, remote], ids=["local", "remote"])
def access(request: pytest.FixtureRequest):
    """A new access, as for this filesystem and as for a network one."""
    return request.param() if request.param else None


def symlink(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"secret")
    os.symlink(path.parent / "elsewhere", path)


def foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path.write_bytes(b"x" * 100)
    os.chown(path, 12345, 12345)


REFUSED = pytest.mark.parametrize(
    ("put", "expected"),
    [(symlink, errno.ELOOP), (os.mkfifo, errno.EPERM), (foreign, errno.EPERM)],
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_foreign_owner_is_accepted_if_asked_for(directory: Path, access) -> None:
    """As on a mount that shows all files as somebody else's."""
    near = PosixStorage(directory, "near", "far", access, any_owner=True)
    far = PosixStorage(directory, "far", "near", access, any_owner=True)
    foreign(directory / "near")
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"content"])
    assert await far.reader.read(0, 7) == b"content"
    assert await near.writer.inspect() is FileCondition.INTACT
    await near.aclose()
    await far.aclose()
    symlink(directory / "far")
    with os_error(errno.ELOOP):
        await near.reader.read(0, 7)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("filesystem", "advice"),
    [
        ("fuse.sshfs", "; if it is yours, mount / with the option idmap=user"),
        ("cifs", "; if it is yours, mount / with the option uid=0,forceuid"),
        ("nfs4", "; the server may squash root (root_squash): use another account than root"),
        ("ext4", "but uid 12345 owns it: "),
    ],
)
async def test_what_to_do_about_a_foreign_owner(
    tmp_path: Path, monkeypatch, filesystem: str, advice: str
) -> None:
    found = Filesystem(filesystem, "source", "/")
    for module in ("ground", "filesystem"):
        monkeypatch.setattr(f"muxfs.storage.{module}.find_filesystem", lambda _path: found)
    foreign(tmp_path / "near")
    near = PosixStorage(tmp_path, "near", "far")
    with pytest.raises(PermissionError, match="a mailbox must be your own") as caught:
        await near.writer.prepare(SIZE)
    assert advice in str(caught.value)


@REFUSED
async def test_what_is_not_our_own_regular_file_is_refused(
    directory: Path, access, put, expected: int
) -> None:
    put(directory / "near")
    near = PosixStorage(directory, "near", "far", access)
    far = PosixStorage(directory, "far", "near", access)
    with trio.fail_after(PATIENCE):  # a FIFO must not hang either
        with os_error(expected):
            await near.writer.prepare(SIZE)
        with os_error(expected):
            await far.reader.read(0, 10)
        assert not await far.reader.watch(Marker(0, b"x"), 0.001, PATIENCE)

    assert held_open(directory) == []


async def test_directory_in_the_place_of_a_mailbox(directory: Path, access) -> None:
    (directory / "near").mkdir()

    with os_error(errno.EISDIR):
        await PosixStorage(directory, "near", "far", access).writer.prepare(SIZE)
    with os_error(errno.EPERM):
        await PosixStorage(directory, "far", "near", access).reader.read(0, 1)


@REFUSED
async def test_what_replaced_the_mailbox_is_found_and_refused(
    directory: Path, put, expected: int
) -> None:
    near = PosixStorage(directory, "near", "far")
    await near.writer.prepare(SIZE)
    os.unlink(directory / "near")
    put(directory / "near")

    assert await near.writer.inspect() is FileCondition.REPLACED
    with os_error(expected):
        await near.writer.recreate()
    await near.aclose()


async def test_mailbox_is_private(directory: Path) -> None:
    near = PosixStorage(directory, "near", "far")
    await near.writer.prepare(SIZE)

    assert os.stat(directory / "near").st_mode & 0o777 == 0o600
    await near.aclose()


async def test_own_file_is_never_cut_or_renamed(directory: Path, access) -> None:
    near = PosixStorage(directory, "near", "far", access)
    await near.writer.prepare(SIZE)
    before = os.stat(directory / "near")
    await near.aclose()
    again = PosixStorage(directory, "near", "far", access)
    await again.writer.prepare(PIECE)
    await again.aclose()

    after = os.stat(directory / "near")
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size) == (before.st_ino, SIZE)


async def test_reader_never_opens_for_writing(directory: Path, access) -> None:
    near = PosixStorage(directory, "near", "far", access)
    far = PosixStorage(directory, "far", "near", access)
    await near.writer.prepare(SIZE)
    await far.reader.read(0, 1)
    with far.reader._file.reading as reading, near.writer._file.writing as writing:
        read_flags, write_flags = (fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (reading, writing))
    await near.aclose()
    await far.aclose()

    assert read_flags & os.O_ACCMODE == os.O_RDONLY
    assert write_flags & os.O_ACCMODE == os.O_RDWR
    assert bool(write_flags & os.O_DSYNC) is (access is not None)
    assert not (read_flags | write_flags) & os.O_NONBLOCK


@pytest.mark.parametrize(("filesystem", "afresh"), [("nfs4", True), ("ext4", False)])
async def test_directory_is_opened_before_the_name(
    directory: Path, monkeypatch, filesystem: str, afresh: bool
) -> None:
    """Else an NFS client goes on believing for 28 s that the name does not exist."""
    found = Filesystem(filesystem, "source", "/")
    monkeypatch.setattr("muxfs.storage.ground.find_filesystem", lambda _path: found)
    opened: list[str] = []
    really_open = os.open

    def spy(path, *arguments):
        opened.append(str(path))
        return really_open(path, *arguments)

    far = PosixStorage(directory, "far", "near")
    monkeypatch.setattr(os, "open", spy)
    await far.reader.read(0, 1)
    await far.reader.read(0, 1)

    assert opened == ([str(directory)] * afresh + [str(directory / "near")]) * 2


async def test_the_kernel_tells_of_writes_and_of_no_more_after_the_end(directory: Path) -> None:
    near = PosixStorage(directory, "near", "far")
    far = PosixStorage(directory, "far", "near")
    await near.writer.prepare(SIZE)
    await far.reader.read(0, 1)
    if not far.reader.notifies:
        pytest.skip("nobody tells of changes of files of a file server")
    assert await far.reader.notice()  # nobody knows what came before
    told: list[bool] = []

    async def wait() -> None:
        told.append(await far.reader.notice())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not told
        await near.writer.write(0, [b"x"])
    assert told == [True]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await far.aclose()
    assert told == [True, False]
    assert not await far.reader.notice()
    await near.aclose()


async def test_directory_that_is_made_again_above(tmp_path: Path, monkeypatch) -> None:
    """An NFS client believes a name missing until it has opened the directory that it is in."""
    really_open = os.open
    missing: set[str] = set()

    def believing_open(path, *arguments):
        names = [str(path), *map(str, Path(path).parents)]
        if not missing.isdisjoint(names):
            raise FileNotFoundError(errno.ENOENT, "believed to be missing", path)
        try:
            descriptor = really_open(path, *arguments)
        except FileNotFoundError:
            missing.add(next(name for name in reversed(names) if not os.path.exists(name)))
            raise
        missing.difference_update([name for name in missing if os.path.dirname(name) == str(path)])
        return descriptor

    directory = tmp_path / "tunnel" / "sessions" / "0"
    monkeypatch.setattr(os, "open", believing_open)

    def find_nfs(path: str) -> Filesystem:
        os.stat(path)
        return Filesystem("nfs4", "source", "/")

    monkeypatch.setattr("muxfs.storage.ground.find_filesystem", find_nfs)
    far = PosixStorage(directory, "far", "near")
    for made in (directory.parents[1], directory.parent, directory):
        assert await far.reader.read(0, 1) == b""
        made.mkdir()
    assert await far.reader.read(0, 1) == b""
    (directory / "near").write_bytes(b"here")

    assert await far.reader.read(0, 4) == b"here"
    await far.aclose()


async def test_new_file_is_shown_to_clients_that_looked_in_the_same_tick(tmp_path: Path) -> None:
    """NFS v3 knows from the directory's mtime alone that there is something new."""

    async def shows() -> bool:
        os.utime(tmp_path, (0, 0))
        await near.writer.inspect()
        return os.stat(tmp_path).st_mtime > 0

    near = PosixStorage(tmp_path, "near", "far")
    await near.writer.prepare(SIZE)
    assert [await shows() for _ in range(SHOWN + 1)] == [True] * SHOWN + [False]

    (tmp_path / "near").unlink()
    assert not await shows()
    await near.writer.recreate()
    assert await shows()
    await near.aclose()

    near = PosixStorage(tmp_path, "near", "far")
    await near.writer.prepare(SIZE)
    assert not await shows()
    await near.aclose()


async def test_directory_that_may_only_be_searched(tmp_path: Path, monkeypatch) -> None:
    really_open = os.open

    def refuse_directory(path, flags, *mode):
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "not readable")
        return really_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse_directory)
    near = PosixStorage(tmp_path, "near", "far")
    await near.writer.prepare(SIZE)

    assert await near.writer.inspect() is FileCondition.INTACT
    await near.aclose()


async def test_lease_held_by_another_client_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    really_open = os.open
    refused = []

    def lease(path, flags, *mode):
        if flags & os.O_NONBLOCK and str(path).endswith("near"):
            refused.append(path)
            raise BlockingIOError(errno.EAGAIN, "a lease is being broken")
        return really_open(path, flags, *mode)

    near = PosixStorage(tmp_path, "near", "far")
    far = PosixStorage(tmp_path, "far", "near")
    monkeypatch.setattr(os, "open", lease)
    await near.writer.prepare(SIZE)

    assert await far.reader.read(0, 1) == b"\0"
    assert await near.writer.inspect() is FileCondition.INTACT
    assert refused
    await near.aclose()
    await far.aclose()


class FailingRead(HeldRead):
    """Raises each of `errors` once."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        if self.errors:
            raise OSError(self.errors.pop(0), "asked for")
        return super().read(descriptor, offset, length)


@pytest.mark.parametrize("error", [errno.ESTALE, errno.ENOENT])
async def test_stale_file_is_looked_up_afresh(directory: Path, error: int) -> None:
    (directory / "near").write_bytes(b"old")
    strategy = FailingRead()
    far = PosixStorage(directory, "far", "near", Access(strategy, PlainWrite()))
    assert await far.reader.read(0, 3) == b"old"
    os.unlink(directory / "near")
    (directory / "near").write_bytes(b"new")
    strategy.errors = [error]

    assert await far.reader.read(0, 3) == b""
    assert await far.reader.read(0, 3) == b"new"
    await far.aclose()


async def test_other_errors_are_raised_and_the_file_is_kept(directory: Path) -> None:
    (directory / "near").write_bytes(b"old")
    strategy = FailingRead(errno.EIO)
    far = PosixStorage(directory, "far", "near", Access(strategy, PlainWrite()))
    with os_error(errno.EIO):
        await far.reader.read(0, 3)
    os.unlink(directory / "near")
    strategy.errors = [errno.EIO]

    assert not await far.reader.watch(Marker(0, b"old"), 0.001, PATIENCE)
    assert await far.reader.read(0, 3) == b"old"
    await far.aclose()


def holes(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [SIZE, SIZE // 2, SIZE + 4096])
async def test_sparse_file_is_filled_and_keeps_its_content(
    directory: Path, access, size: int
) -> None:
    head = bytes(range(256)) * (HEAD_LENGTH // 256)
    path = directory / "near"
    path.write_bytes(head)
    os.truncate(path, size)
    with path.open("r+b") as file:
        file.seek(size - 100)
        file.write(b"the end")
    if not holes(path):
        pytest.skip("this filesystem tells of no holes")
    near = PosixStorage(directory, "near", "far", access)

    assert await near.writer.prepare(SIZE) == head
    assert not holes(path)
    assert os.stat(path).st_blocks * 512 >= SIZE
    content = head.ljust(size - 100, b"\0") + b"the end"
    assert path.read_bytes() == content.ljust(max(size, SIZE), b"\0")
    await near.aclose()


async def test_sparse_file_where_no_hole_can_be_found(directory: Path, monkeypatch) -> None:
    """As on NFS before v4.2, where only the number of blocks tells."""
    path = directory / "near"
    path.touch()
    os.truncate(path, SIZE)
    near = PosixStorage(directory, "near", "far")
    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", lambda fd, *_: os.fstat(fd).st_size)
        await near.writer.prepare(SIZE)

    assert os.stat(path).st_blocks * 512 >= SIZE
    await near.aclose()


async def test_small_hole_is_found(directory: Path) -> None:
    """A hole of one block, which the number of blocks may hide."""
    path = directory / "near"
    path.write_bytes(b"x" * 8192)
    os.truncate(path, 12288)
    with path.open("ab") as file:
        file.write(b"y" * (SIZE - 12288))
    if not holes(path):
        pytest.skip("this filesystem tells of no holes")
    near = PosixStorage(directory, "near", "far")
    await near.writer.prepare(SIZE)

    assert not holes(path)
    await near.aclose()


async def test_full_file_is_not_written_again(directory: Path, monkeypatch) -> None:
    first = PosixStorage(directory, "near", "far")
    await first.writer.prepare(SIZE)
    await first.aclose()
    second = PosixStorage(directory, "near", "far")
    await second.writer.prepare(SIZE)
    await second.aclose()

    assert first.operations.writes == 3  # pieces of at most 1 MiB
    assert second.operations.writes == 0
    assert second.operations.syncs == 1  # they may have been written, but never synced


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "muxfs-test", str(mount_point)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small filesystem can be mounted only by root")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


async def test_full_disk_is_found_at_once_and_not_left_full(small_filesystem: Path, access) -> None:
    near = PosixStorage(small_filesystem, "near", "far", access)
    with os_error(errno.ENOSPC):
        await near.writer.prepare(SIZE)

    assert held_open(small_filesystem) == []
    assert os.stat(small_filesystem / "near").st_size == 0
    await near.writer.prepare(512 << 10)  # and what fits, fits
    await near.aclose()


async def test_previous_life_survives_a_full_disk(small_filesystem: Path, access) -> None:
    (small_filesystem / "near").write_bytes(b"old" * 1000)
    near = PosixStorage(small_filesystem, "near", "far", access)
    with os_error(errno.ENOSPC):
        await near.writer.prepare(SIZE)

    assert (small_filesystem / "near").read_bytes() == b"old" * 1000


async def test_prepared_mailbox_works_on_a_full_disk(small_filesystem: Path, access) -> None:
    near = PosixStorage(small_filesystem, "near", "far", access)
    far = PosixStorage(small_filesystem, "far", "near", access)
    await near.writer.prepare(512 << 10)
    with os_error(errno.ENOSPC), (small_filesystem / "other").open("wb", 0) as other:
        while True:
            other.write(bytes(4096))
    payload = os.urandom(512 << 10)
    await near.writer.write(0, [payload])

    assert await far.reader.read(0, 512 << 10) == payload
    os.unlink(small_filesystem / "near")  # we hold its blocks still, so there is no room
    with os_error(errno.ENOSPC):
        await near.writer.recreate()
    await near.writer.write(0, [payload])  # the one that was held is held still
    await near.aclose()
    await far.aclose()


async def test_identified_on_first_use(directory: Path) -> None:
    expected = find_filesystem(str(directory))
    near = PosixStorage(directory, "near", "far")
    assert near.access is None
    assert near.filesystem.kind is expected.kind
    await near.writer.prepare(SIZE)

    assert near.filesystem == expected
    assert near.describe() == f"{directory} on {expected.describe()}"
    assert near.access.name == ("memory+memory" if expected.kind is Kind.MEMORY else "cached+plain")
    await near.aclose()


async def test_immediate_once_the_file_is_there(directory: Path, access) -> None:
    near = PosixStorage(directory, "near", "far", access)
    far = PosixStorage(directory, "far", "near", access)
    assert not far.reader.immediate
    await far.reader.read(0, 1)
    assert not far.reader.immediate  # looking for a missing file takes a thread
    await near.writer.prepare(SIZE)
    await far.reader.read(0, 1)

    assert far.reader.immediate is (access is None)
    await near.aclose()
    await far.aclose()
    assert not far.reader.immediate


class Recording(HeldRead):
    """Tells how much was read each time."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        self.lengths.append(length)
        return super().read(descriptor, offset, length)


async def test_a_read_that_waits_asks_for_much_only_once_it_is_there(directory: Path) -> None:
    recording, marker = Recording(), Marker(0, b"news")
    near = PosixStorage(directory, "near", "far", remote())
    far = PosixStorage(directory, "far", "near", Access(recording, DsyncWrite()))
    await near.writer.prepare(SIZE)
    await far.reader.read_until(0, 1 << 20, marker, nap=0.001, timeout=0.05)
    await near.writer.write(0, [b"news"])
    await far.reader.read_until(0, 1 << 20, marker, nap=0.001, timeout=PATIENCE)
    await near.aclose()
    await far.aclose()

    assert [length for length in recording.lengths if length > 4096] == [1 << 20, 1 << 20]
