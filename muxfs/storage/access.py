"""Small interchangeable ways to read and to write a mailbox file.

Which one is right depends on the filesystem's client, not on taste: a network
filesystem's client answers reads from caches that no one invalidates in time.
The numbers below were measured with two independent clients of knfsd.

Rule 1: a strategy is synchronous code for a worker thread; only `read_now` and
a writer that is `inline` run on the event loop, and those never block.
Rule 2: a strategy keeps nothing about a file; the descriptor's own flags say
how it was opened. So one strategy serves many files, from any thread.
Rule 3: offsets and lengths are free; alignment is the strategy's own business.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import attrs

from muxfs.storage.base import Buffer

ALIGNMENT: Final = 4096
"""What O_DIRECT wants of offset, length and address; no filesystem we know wants more."""

IOV_MAX: Final = 1024  # Linux' UIO_MAXIOV: pwritev refuses more buffers than this (EINVAL)

_REFUSALS: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class ReadAccess(abc.ABC):
    """How the peer's file is read so that the bytes are the file server's, not a cache's."""

    name: ClassVar[str]

    @property
    def immediate(self) -> bool:
        """Whether `read_now` normally answers, so that a read needs no thread."""
        return False

    def open(self, path: str, flags: int) -> int:
        """Open `path` with `flags` and what this strategy adds to them."""
        return os.open(path, flags)

    @abc.abstractmethod
    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`; fewer only at the end of the file. May block."""

    def read_now(self, descriptor: int, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """Read the same without ever blocking; None where only `read` can answer."""
        return None


class HeldRead(ReadAccess):
    """Plain pread on the kept descriptor.

    Right where one kernel holds the only cache: local filesystems. On NFS it
    stays stale until the attribute cache expires (2 to 32 s), on GlusterFS,
    sshfs and CephFS's FUSE client for ever.
    """

    name = "held"

    def read(self, descriptor: int, offset: int, length: int) -> bytes:  # noqa: D102
        data = os.pread(descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]  # the end of the file, or a read that a signal cut short
        done = len(data)
        while done < length and (data := os.pread(descriptor, length - done, offset + done)):
            parts.append(data)
            done += len(data)
        return b"".join(parts)


class MemoryRead(HeldRead):
    """Plain pread of a memory-backed file, on the event loop itself.

    There is no device to wait for: 4 KiB cost 0.7 us and 1 MiB 60 us, where a
    hop to a worker thread costs 80 us.
    """

    name = "memory"

    @property
    def immediate(self) -> bool:  # noqa: D102
        return True

    def read_now(self, descriptor: int, offset: int, length: int) -> bytes | None:  # noqa: D102
        return os.pread(descriptor, length, offset)


class CachedRead(HeldRead):
    """Pread from the page cache without waiting (RWF_NOWAIT); else a plain one in a thread.

    On a local disk the peer's bytes are in the page cache because it has just
    written them. 4 KiB cost 0.9 us (ext4). A page that is not there (EAGAIN, or a
    short read) is fetched by a thread, which has it cached for the next time.
    """

    name = "cached"

    def __init__(self) -> None:
        self._supported = True
        self._buffers = BufferPool()

    @property
    def immediate(self) -> bool:  # noqa: D102
        return self._supported

    def read_now(self, descriptor: int, offset: int, length: int) -> bytes | None:  # noqa: D102
        if not self._supported:
            return None
        with self._buffers.borrow(length) as buffer:
            try:
                got = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self._supported = False  # ZFS, old kernels
                return None
            return bytes(buffer) if got == length else None


class DirectRead(ReadAccess):
    """A kept O_DIRECT descriptor: every read is one READ of the file server, no cache between.

    The only way that was right on every filesystem measured, and the cheapest:
    0.13 ms and one RPC per read on NFS, never stuck in 60,000 rounds where
    reopening got stuck after 2 (v3) to 2,000 (v4.2).

    Reads the aligned superset into an aligned buffer and copies the asked part
    out. A filesystem that refuses O_DIRECT, at open or only at the first read,
    is read by `DontneedRead` from then on.
    """

    name = "direct"

    def __init__(self) -> None:
        self._buffers = BufferPool()
        self._fallback = DontneedRead()

    def open(self, path: str, flags: int) -> int:  # noqa: D102
        try:
            return os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            return self._fallback.open(path, flags)

    def read(self, descriptor: int, offset: int, length: int) -> bytes:  # noqa: D102
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if not flags & os.O_DIRECT:
            return self._fallback.read(descriptor, offset, length)
        try:
            return self._read_aligned(descriptor, offset, length)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            return self._fallback.read(descriptor, offset, length)

    def _read_aligned(self, descriptor: int, offset: int, length: int) -> bytes:
        start, stop = aligned(offset, length)
        done = 0
        with self._buffers.borrow(stop - start) as buffer:
            while done < len(buffer):
                got = os.preadv(descriptor, [buffer[done:]], start + done)
                done += got
                if got == 0 or done % ALIGNMENT:
                    break  # the end of the file; an unaligned rest could not be asked for anyway
            skip = offset - start
            return bytes(buffer[skip : max(skip, min(done, skip + length))])


class DontneedRead(ReadAccess):
    """Drop the pages from this host's cache (posix_fadvise DONTNEED), then read.

    For filesystems without O_DIRECT: never stuck in 9,000 rounds on NFS v3, v4.0
    and v4.2, and right in place on SMB, GlusterFS, sshfs and CephFS. It forgets
    pages but not the file's size: a client that thinks the file is shorter than
    it is goes on for seconds, so a short read asks the server for the attributes
    (statx FORCE_SYNC) and reads again.
    """

    name = "dontneed"

    def __init__(self) -> None:
        self._plain = HeldRead()

    def open(self, path: str, flags: int) -> int:  # noqa: D102
        descriptor = os.open(path, flags)
        # Read-ahead would fetch 128 KiB and more for a poll of 4 KiB. (FIFO: ESPIPE, judged later)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return descriptor

    def read(self, descriptor: int, offset: int, length: int) -> bytes:  # noqa: D102
        data = self._read_dropped(descriptor, offset, length)
        if len(data) < length and revalidate(descriptor):
            data = self._read_dropped(descriptor, offset, length)
        return data

    def _read_dropped(self, descriptor: int, offset: int, length: int) -> bytes:
        start, stop = aligned(offset, length)  # only whole pages are dropped
        with contextlib.suppress(OSError):  # ENOSYS, EOPNOTSUPP: there is nothing better then
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
        return self._plain.read(descriptor, offset, length)


class WriteAccess(abc.ABC):
    """How the own file is written so that the peer's host can see it when `write` returns."""

    name: ClassVar[str]
    flags: ClassVar[int] = 0
    """What this strategy adds to the flags of open."""
    inline: ClassVar[bool] = False
    """Whether `write` cannot block, so that it needs no thread."""
    syncs: ClassVar[int] = 0
    """Sync calls per write, for the count of operations."""

    def write(self, descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all of `buffers` one after the other at `offset`."""
        write_all(descriptor, offset, buffers)


class PlainWrite(WriteAccess):
    """Plain pwritev, for local disks: every reader of this kernel sees it at once.

    Over NFS it is never seen: the dirty page stays on the writer's host until
    writeback, 5 to 30 s. In a thread also for small writes, though they took 4 us
    (ext4): a dirty page under writeback or a throttled writer waits for the disk.
    """

    name = "plain"


class MemoryWrite(PlainWrite):
    """Plain pwritev to a memory-backed file, on the event loop itself (4 KiB: 1 us, 1 MiB: 73)."""

    name = "memory"
    inline = True


class DsyncWrite(WriteAccess):
    """Pwritev on an O_DSYNC descriptor: the server has it when the call returns.

    On NFS one stable WRITE and no COMMIT: 0.2 ms for 4 KiB, the same as fsync.
    A full disk shows in the very write, not in a later sync.
    """

    name = "dsync"
    flags = os.O_DSYNC


class FdatasyncWrite(WriteAccess):
    """Pwritev, then fdatasync: for filesystems that take O_DSYNC lightly.

    An error of the sync is told once and the pages are gone; the next sync
    succeeds. So every error here means: write again all that matters.
    """

    name = "fdatasync"
    syncs = 1

    def write(self, descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:  # noqa: D102
        write_all(descriptor, offset, buffers)
        os.fdatasync(descriptor)


@attrs.frozen
class Access:
    """How one session reads the peer's file and writes its own."""

    read: ReadAccess
    write: WriteAccess

    @property
    def name(self) -> str:
        """Both strategies' names for people, such as `direct+dsync`."""
        return f"{self.read.name}+{self.write.name}"


class BufferPool:
    """Page-aligned buffers, used again: a fresh mapping costs a page fault per 4 KiB.

    Each borrower has its own, since a read that was abandoned on a dead server
    may still be filling it.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []  # append and pop are atomic

    def borrow(self, length: int) -> Loan:
        """Lend `length` bytes for a `with` block."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < length:
            memory = mmap.mmap(-1, 1 << max(16, (length - 1).bit_length()))
        return Loan(self._free, memory, memoryview(memory)[:length])


@attrs.define
class Loan:
    """A borrowed buffer; `with` gives the memoryview and returns it to the pool."""

    _pool: list[mmap.mmap]
    _memory: mmap.mmap
    _view: memoryview

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *_: object) -> None:
        self._pool.append(self._memory)


def aligned(offset: int, length: int) -> tuple[int, int]:
    """Start and end of the smallest aligned range around `length` bytes at `offset`."""
    return offset & -ALIGNMENT, (offset + length + ALIGNMENT - 1) & -ALIGNMENT


def write_all(descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """Write all the buffers at `offset`, however many they are and however short writes come out.

    EINTR is retried by Python itself. Raises OSError; any part may be written then.
    """
    views = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
    first = 0
    while first < len(views):
        written = os.pwritev(descriptor, views[first : first + IOV_MAX], offset)
        if not written:  # no filesystem should; without this it would be an endless loop
            raise OSError(errno.EIO, "the filesystem wrote nothing")
        offset += written
        while first < len(views) and written >= views[first].nbytes:
            written -= views[first].nbytes
            first += 1
        if written:
            views[first] = views[first][written:]


def revalidate(descriptor: int) -> bool:
    """Have the client ask the file server for the file's attributes; False where it cannot."""
    statx = _statx()
    if statx is None:
        return False
    error = statx(descriptor)
    if error in (0, errno.ENOSYS, errno.EINVAL):
        return not error
    raise OSError(error, os.strerror(error))


@functools.cache
def _statx() -> Callable[[int], int] | None:
    """Glibc's statx (2.28), which the os module does not have."""
    try:
        function = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return None
    at_empty_path, at_statx_force_sync, statx_basic_stats = 0x1000, 0x2000, 0x7FF

    def call(descriptor: int) -> int:
        result = ctypes.create_string_buffer(256)
        flags = at_empty_path | at_statx_force_sync
        failed = function(descriptor, b"", flags, statx_basic_stats, result)
        return ctypes.get_errno() if failed else 0

    return call
