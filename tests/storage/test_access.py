"""Each strategy on a real file: every range, partial calls, refusals."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.storage.access import (
    ALIGNMENT,
    READS,
    WRITES,
    Access,
    BufferPool,
    CachedRead,
    CloseWrite,
    DirectRead,
    DontneedRead,
    FdatasyncWrite,
    HeldRead,
    ReadAccess,
    ReopenRead,
    StatxRead,
    UnknownStrategy,
    WriteAccess,
    aligned,
    reads,
    revalidate,
    write_all,
)
from muxfs.storage.access.buffers import LARGE, MANY, SMALL

from .conftest import os_error

CONTENT = bytes(range(251)) * 200  # 50,200 bytes: no multiple of a page


@pytest.fixture(scope="module")
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "content"
        path.write_bytes(CONTENT)
        yield str(path)


@pytest.fixture
def direct_path(path: str) -> str:
    """The same, where O_DIRECT is taken; tmpfs does so since Linux 6.6."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the filesystem of the temporary files refuses O_DIRECT")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def read_once(strategy: ReadAccess, path: str, offset: int, length: int) -> bytes:
    descriptor = strategy.open(path, os.O_RDONLY)
    try:
        return strategy.read(descriptor, offset, length)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", READS.values())
@given(offset=st.integers(0, len(CONTENT) + 5000), length=st.integers(0, len(CONTENT) + 5000))
def test_any_range_is_read(path: str, kind: type[ReadAccess], offset: int, length: int) -> None:
    assert read_once(kind(), path, offset, length) == CONTENT[offset : offset + length]


@pytest.mark.parametrize("kind", READS.values())
@given(offset=st.integers(0, len(CONTENT) + 5000), length=st.integers(0, len(CONTENT) + 5000))
def test_what_is_read_at_once_is_the_same(
    path: str, kind: type[ReadAccess], offset: int, length: int
) -> None:
    strategy = kind()
    descriptor = strategy.open(path, os.O_RDONLY)
    try:
        data = strategy.read_now(descriptor, offset, length)
    finally:
        os.close(descriptor)

    assert data is None or data == CONTENT[offset : offset + length]
    assert strategy.immediate or data is None


@pytest.mark.parametrize("kind", [HeldRead, DontneedRead, StatxRead, ReopenRead])
def test_read_that_comes_in_pieces(path: str, kind: type[ReadAccess], monkeypatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 1000), at))

    assert read_once(kind(), path, 17, 4321) == CONTENT[17 : 17 + 4321]
    assert read_once(kind(), path, 49000, 4321) == CONTENT[49000:]


def test_direct_read_that_comes_in_pieces(path: str, monkeypatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:ALIGNMENT]], at))

    assert read_once(DirectRead(), path, 17, 14321) == CONTENT[17 : 17 + 14321]


def test_direct_read_asks_for_nothing_unaligned(direct_path: str, monkeypatch) -> None:
    asked = []
    preadv = os.preadv

    def spy(fd, views, at):
        asked.append((len(views[0]), at))
        return preadv(fd, views, at)

    monkeypatch.setattr(os, "preadv", spy)
    read_once(DirectRead(), direct_path, 4097, 10)

    assert asked == [(4096, 4096)]


def test_direct_read_keeps_an_o_direct_descriptor(direct_path: str) -> None:
    descriptor = DirectRead().open(direct_path, os.O_RDONLY)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    os.close(descriptor)

    assert flags & os.O_DIRECT


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP])
def test_o_direct_refused_at_open(path: str, monkeypatch, error: int) -> None:
    really_open = os.open
    dropped = count_dontneed(monkeypatch)

    def refuse(name, flags, *mode):
        if flags & os.O_DIRECT:
            raise OSError(error, "no O_DIRECT here")
        return really_open(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)

    assert read_once(DirectRead(), path, 17, 4321) == CONTENT[17 : 17 + 4321]
    assert dropped == [(0, 8192)]


def test_o_direct_refused_at_the_first_read(direct_path: str, monkeypatch) -> None:
    dropped = count_dontneed(monkeypatch)
    calls = []

    def refuse(fd, views, at):
        calls.append(at)
        raise OSError(errno.EINVAL, "no O_DIRECT here")

    strategy = DirectRead()
    descriptor = strategy.open(direct_path, os.O_RDONLY)
    monkeypatch.setattr(os, "preadv", refuse)
    for _ in range(2):
        assert strategy.read(descriptor, 17, 4321) == CONTENT[17 : 17 + 4321]
    os.close(descriptor)

    assert calls == [0]  # not tried again
    assert len(dropped) == 2


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_other_errors_of_direct_reads(direct_path: str, monkeypatch, error: int) -> None:
    def fail(*_):
        raise OSError(error, "broken")

    monkeypatch.setattr(os, "preadv", fail)
    strategy = DirectRead()
    descriptor = strategy.open(direct_path, os.O_RDONLY)
    with os_error(error):
        strategy.read(descriptor, 0, 10)
    os.close(descriptor)


def count_dontneed(monkeypatch) -> list[tuple[int, int]]:
    """Record the ranges that are dropped from the cache."""
    dropped: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def spy(fd, offset, length, advice):
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((offset, length))
        advise(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", spy)
    return dropped


def test_dontneed_drops_whole_pages_before_each_read(path: str, monkeypatch) -> None:
    dropped = count_dontneed(monkeypatch)
    read_once(DontneedRead(), path, 5000, 10)

    assert dropped == [(4096, 4096)]


def test_dontneed_asks_for_the_size_where_a_read_is_short(path: str, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(reads, "revalidate", lambda fd: not asked.append(fd))
    assert read_once(DontneedRead(), path, 0, 100) == CONTENT[:100]
    assert not asked

    assert read_once(DontneedRead(), path, 50000, 1000) == CONTENT[50000:]
    assert len(asked) == 1


def test_statx_asks_for_the_attributes_then_drops_the_pages(path: str, monkeypatch) -> None:
    dropped = count_dontneed(monkeypatch)
    really = reads.revalidate
    asked = []

    def spy(descriptor: int) -> bool:
        asked.append(list(dropped))
        return really(descriptor)

    monkeypatch.setattr(reads, "revalidate", spy)
    assert read_once(StatxRead(), path, 50000, 1000) == CONTENT[50000:]

    assert asked == [[]]  # once, and first
    assert dropped == [(49152, 4096)]


def test_reopen_opens_anew_for_each_read_and_closes(path: str, monkeypatch) -> None:
    strategy = ReopenRead()
    descriptor = strategy.open(path, os.O_RDONLY)
    opened, closed = count_opens(monkeypatch)
    for _ in range(3):
        assert strategy.read(descriptor, 17, 4321) == CONTENT[17 : 17 + 4321]
    os.close(descriptor)

    assert [name for name, _ in opened] == [f"/proc/self/fd/{descriptor}"] * 3
    assert len(closed) == 4


def test_reopen_reads_the_file_that_is_held_whatever_the_name_leads_to(tmp_path: Path) -> None:
    (tmp_path / "held").write_bytes(b"held")
    strategy = ReopenRead()
    descriptor = strategy.open(str(tmp_path / "held"), os.O_RDONLY)
    (tmp_path / "other").write_bytes(b"other")
    os.rename(tmp_path / "other", tmp_path / "held")

    assert strategy.read(descriptor, 0, 10) == b"held"
    os.close(descriptor)


def count_opens(monkeypatch) -> tuple[list[tuple[str, int]], list[int]]:
    """Record the names and flags of all that is opened, and what is closed."""
    opened: list[tuple[str, int]] = []
    closed: list[int] = []
    really_open, really_close = os.open, os.close

    def spy_open(name, flags, *mode):
        opened.append((str(name), flags))
        return really_open(name, flags, *mode)

    def spy_close(descriptor):
        closed.append(descriptor)
        really_close(descriptor)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "close", spy_close)
    return opened, closed


@pytest.mark.parametrize("kind", READS.values())
def test_no_reader_opens_for_writing(path: str, monkeypatch, kind: type[ReadAccess]) -> None:
    opened, _ = count_opens(monkeypatch)
    read_once(kind(), path, 17, 4321)

    assert opened
    assert all(flags & os.O_ACCMODE == os.O_RDONLY for _, flags in opened)


def test_close_write_closes_what_it_wrote_to(target: int, monkeypatch) -> None:
    opened, closed = count_opens(monkeypatch)
    CloseWrite().write(target, 3, [b"x"])

    assert [name for name, _ in opened] == [f"/proc/self/fd/{target}"]
    assert len(closed) == 1
    assert target not in closed


def test_close_write_raises_what_close_tells(target: int, monkeypatch) -> None:
    really_close = os.close

    def full(descriptor):
        really_close(descriptor)
        raise OSError(errno.ENOSPC, "told late")

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(OSError, match="told late"):
        CloseWrite().write(target, 0, [b"x"])
    monkeypatch.undo()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("read", READS)
def test_pairs_by_name(read: str, write: str) -> None:
    pair = Access.named(f"{read}+{write}")

    assert (type(pair.read), type(pair.write)) == (READS[read], WRITES[write])
    assert pair.name == f"{read}+{write}"


@pytest.mark.parametrize("name", ["", "direct", "+dsync", "direct+", "direct+direct"])
def test_unknown_pairs(name: str) -> None:
    with pytest.raises(UnknownStrategy, match="memory, cached, held, direct, dontneed"):
        Access.named(name)


def test_revalidate(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    assert revalidate(descriptor)
    os.close(descriptor)

    with os_error(errno.EBADF):
        revalidate(descriptor)


def test_page_that_is_not_cached_is_left_to_a_thread(path: str, monkeypatch) -> None:
    def not_cached(*_):
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")

    monkeypatch.setattr(os, "preadv", not_cached)
    strategy = CachedRead()
    descriptor = strategy.open(path, os.O_RDONLY)

    assert strategy.read_now(descriptor, 0, 10) is None
    assert strategy.immediate
    assert strategy.read(descriptor, 0, 10) == CONTENT[:10]
    os.close(descriptor)


def test_half_cached_range_is_left_to_a_thread(path: str, monkeypatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, v, at, _flags: preadv(fd, [v[0][:100]], at))
    strategy = CachedRead()
    descriptor = strategy.open(path, os.O_RDONLY)

    assert strategy.read_now(descriptor, 0, 200) is None
    os.close(descriptor)


def test_filesystem_without_nowait_is_asked_once(path: str, monkeypatch) -> None:
    asked = []

    def unsupported(*arguments):
        asked.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT here")

    monkeypatch.setattr(os, "preadv", unsupported)
    strategy = CachedRead()

    assert strategy.read_now(0, 0, 10) is None
    assert strategy.read_now(0, 0, 10) is None
    assert not strategy.immediate
    assert len(asked) == 1


@pytest.mark.parametrize("kind", WRITES.values())
def test_write(target: int, kind: type[WriteAccess]) -> None:
    os.pwrite(target, b"." * 20, 0)
    kind().write(target, 3, [b"ab", bytearray(b"c"), memoryview(b"def"), b""])

    assert os.pread(target, 100, 0) == b"...abcdef..........."


def test_write_of_nothing(target: int) -> None:
    write_all(target, 0, [])
    write_all(target, 0, [b"", b""])

    assert os.fstat(target).st_size == 0


def test_write_of_more_buffers_than_one_call_takes(target: int) -> None:
    buffers = [bytes([n % 256]) * (n % 5) for n in range(5000)]
    write_all(target, 11, buffers)

    assert os.pread(target, 1 << 20, 11) == b"".join(buffers)


def test_write_of_wide_items(target: int) -> None:
    write_all(target, 0, [memoryview(array.array("I", [1, 2, 3]))])

    assert os.pread(target, 100, 0) == array.array("I", [1, 2, 3]).tobytes()


@given(
    sizes=st.lists(st.integers(0, 50), max_size=10),
    takes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_write_that_goes_in_pieces(sizes: list[int], takes: list[int]) -> None:
    buffers = [bytes([65 + n]) * size for n, size in enumerate(sizes)]
    pwritev = os.pwritev
    calls = 0

    def partial(fd, views, at):
        nonlocal calls
        calls += 1
        return pwritev(fd, [b"".join(views)[: takes[calls % len(takes)]]], at)

    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", partial)
        write_all(file.fileno(), 7, buffers)
        assert os.pread(file.fileno(), 1000, 7) == b"".join(buffers)


def test_filesystem_that_writes_nothing_is_an_error(target: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)

    with os_error(errno.EIO):
        write_all(target, 0, [b"x"])


def test_fdatasync_is_called_and_its_error_raised(target: int, monkeypatch) -> None:
    def fail(_descriptor):
        raise OSError(errno.EIO, "late")

    monkeypatch.setattr(os, "fdatasync", fail)

    with pytest.raises(OSError, match="late"):
        FdatasyncWrite().write(target, 0, [b"x"])


@given(offset=st.integers(0, 1 << 40), length=st.integers(0, 1 << 30))
def test_aligned_is_the_smallest_range(offset: int, length: int) -> None:
    start, stop = aligned(offset, length)

    assert start % ALIGNMENT == stop % ALIGNMENT == 0
    assert start <= offset < start + ALIGNMENT
    assert stop - ALIGNMENT < offset + length <= stop


def test_buffers_are_used_again_but_never_shared() -> None:
    pool = BufferPool()
    with pool.borrow(100) as first, pool.borrow(100) as second:
        first[0], second[0] = 1, 2
        assert (first[0], len(first)) == (1, 100)
    with pool.borrow(10) as third:
        assert third[0] in (1, 2)
    with pool.borrow(1 << 20) as large:
        assert len(large) == 1 << 20


def test_a_buffer_is_used_again_for_a_longer_read() -> None:
    pool = BufferPool()
    with pool.borrow(SMALL + 1) as first:
        first[0] = 1
    with pool.borrow(100) as small, pool.borrow(LARGE) as longer:
        assert (small[0], longer[0]) == (0, 1)


def test_large_buffers_are_given_back_when_only_small_ones_are_lent() -> None:
    pool = BufferPool()

    def poll(count: int) -> None:
        for _ in range(count):
            with pool.borrow(ALIGNMENT):
                pass

    with pool.borrow(100), pool.borrow(1 << 20), pool.borrow(4 << 20):
        pass
    poll(MANY - 1)
    assert sorted(map(len, pool._large)) == [LARGE, 4 << 20]
    poll(1)
    assert pool._large == []
    with pool.borrow(1 << 20):
        poll(MANY)
    poll(MANY)
    assert pool._large == []
    assert list(map(len, pool._small)) == [SMALL]
