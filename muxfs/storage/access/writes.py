"""Ways to write the own file."""

from __future__ import annotations

import abc
import errno
import os
from collections.abc import Sequence
from typing import ClassVar, Final

from muxfs.storage.base import Buffer

IOV_MAX: Final = 1024  # Linux' UIO_MAXIOV: pwritev refuses more buffers than this (EINVAL)


class WriteAccess(abc.ABC):
    """How the own file is written so that the peer's host can see it when `write` returns."""

    name: ClassVar[str]
    flags: ClassVar[int] = 0
    """What this strategy adds to the flags of open."""
    inline: ClassVar[bool] = False
    """Whether `write` cannot block, so that it needs no thread."""
    syncs: ClassVar[int] = 0
    """Sync calls per write, for the count of operations."""
    metadata: ClassVar[int] = 0
    """Opens per write, for the same."""

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

    On NFS the same WRITE as O_DSYNC makes (0.2 ms for 4 KiB), on MooseFS needed at all:
    without a sync its readers saw a write after 100 to 200 ms, with one after 1.5 ms.
    An error of the sync is told once and the pages are gone; the next sync
    succeeds. So every error here means: write again all that matters.
    """

    name = "fdatasync"
    syncs = 1

    def write(self, descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:  # noqa: D102
        write_all(descriptor, offset, buffers)
        os.fdatasync(descriptor)


class CloseWrite(WriteAccess):
    """Open the file anew, pwritev, close: for clients that send what was written at close.

    Close-to-open consistency promises just this. On NFS as good as O_DSYNC, but 2.6 ms
    a write instead of 0.2, and on MooseFS as good as fsync. A full disk shows in close.
    """

    name = "close"
    metadata = 1

    def write(self, descriptor: int, offset: int, buffers: Sequence[Buffer]) -> None:  # noqa: D102
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(again, offset, buffers)
        finally:
            os.close(again)


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
