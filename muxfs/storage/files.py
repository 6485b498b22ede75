"""Opening, checking and filling mailbox files: synchronous code for worker threads."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable
from typing import Final

import attrs

from muxfs.storage.access import Access, ReadAccess
from muxfs.storage.base import Operations, Progress
from muxfs.storage.filesystem import owner_advice

PIECE: Final = 1 << 20  # bytes per write while filling: 57 MiB/s in 64 KiB pieces, 207 in these
_ZEROS: Final = memoryview(bytes(PIECE))

GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})
"""Errors that mean: what is held is no file any more (sshfs tells ENOENT on a kept descriptor)."""


class Handle:
    """A descriptor that is really closed when its last user has left it.

    A read that was abandoned on a dead server still uses its descriptor; closing
    it under that thread would let the number be given to another file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._users = 0
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> int:
        with self._lock:
            if self._closed:
                raise OSError(errno.ESTALE, "the file was closed meanwhile")
            self._users += 1
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            _close(self._descriptor)

    def close(self) -> None:
        """Close it now, or leave that to its last user. Blocks while the server is down."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle = not self._users
        if idle:
            _close(self._descriptor)


@attrs.frozen
class OwnFile:
    """The own mailbox: one descriptor to write, one to read past the local cache."""

    writing: Handle
    checking: Handle
    access: Access
    """How they were opened, and are to be used."""

    def close(self) -> None:
        """Close both."""
        self.checking.close()
        self.writing.close()


@attrs.frozen
class PeerFile:
    """The peer's mailbox, opened for reading."""

    reading: Handle
    read: ReadAccess
    """How it was opened, and is to be read."""

    def close(self) -> None:
        """Close it."""
        self.reading.close()


@attrs.frozen
class Opener:
    """Opens the files of one directory, and counts."""

    directory: str
    operations: Operations
    any_owner: bool = False
    """Whether files may belong to other users: a mount may show all files as somebody's."""
    local: bool = False
    """Whether names are this kernel's own, so that it never believes what is no longer true."""

    def path(self, name: str) -> str:
        """Where the file of that name is."""
        return os.path.join(self.directory, name)

    def look_up_afresh(self) -> None:
        """Have the client forget what it believes about the names in the directory.

        A name that was looked up before it existed stays missing for 28 s on NFS,
        one that was deleted stays for as long. Opening the directory revalidates it
        (close-to-open): then 5 ms. Raises what opening raises, but for EACCES.
        """
        if self.local:
            return
        try:
            self._revalidate(self.directory)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._look_up_from_above(self.directory)

    def _look_up_from_above(self, directory: str) -> None:
        """Revalidate a directory that seems to be missing, after what it is in.

        Its name was looked up before it existed, or it was removed and made again: the client
        believes what is around it for up to a minute (acdirmax).
        """
        above = os.path.dirname(directory)
        if above == directory:
            return
        try:
            self._revalidate(above)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._look_up_from_above(above)
        self._revalidate(directory)

    def _revalidate(self, directory: str) -> None:
        self.operations.metadata += 1
        with contextlib.suppress(PermissionError):  # it may be searched, but not read
            os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def show_names(self) -> None:
        """Have other clients see a name that was made here some time ago.

        NFS v3 knows by its mtime that a directory changed. A client that looked within the same
        tick of the server's clock (1 to 10 ms) before the name was made finds it missing
        however often it looks: 23 % of those that began at the same instant, for up to a minute.
        """
        self.operations.metadata += 1
        with contextlib.suppress(OSError):
            os.utime(self.directory)

    def open_peer(self, name: str, access: ReadAccess) -> PeerFile | None:
        """Open the peer's file for reading; None where there is none."""
        try:
            self.look_up_afresh()
            flags = os.O_RDONLY | os.O_NOFOLLOW
            return PeerFile(Handle(self._open(self.path(name), access.open, flags)), access)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def open_again(self, descriptor: int, access: ReadAccess) -> PeerFile:
        """Open a file once more by its descriptor, whatever its name leads to meanwhile."""
        return PeerFile(Handle(self._open_again(descriptor, access)), access)

    def open_own(self, name: str, access: Access) -> OwnFile:
        """Open or create the own file, mode 0600."""
        self.look_up_afresh()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | access.write.flags
        writing = self._open(self.path(name), _open_private, flags)
        try:
            # Through the page cache we would see what we wrote, not what the server got.
            checking = self._open_again(writing, access.read)
        except BaseException:
            os.close(writing)
            raise
        return OwnFile(Handle(writing), Handle(checking), access)

    def stat_name(self, name: str) -> os.stat_result | None:
        """Get the attributes of what the name now leads to, from the server; None if nothing.

        By opening it: only that makes an NFS client ask (stat is answered from the
        attribute cache for up to a minute).
        """
        try:
            self.look_up_afresh()
            self.operations.metadata += 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path(name), flags)
        except OSError as error:
            if error.errno in (*GONE, errno.ENOTDIR):
                return None
            # A symlink, a socket, somebody else's: not ours in any case. Or it raises, too.
            return os.stat(self.path(name), follow_symlinks=False)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, path: str, opener: Callable[[str, int], int], flags: int) -> int:
        """Open a file that must be regular and our own.

        O_NONBLOCK, else a FIFO that somebody put there would hang the thread. With it
        a delegation or lease held by another client fails at once (EAGAIN).
        """
        self.operations.metadata += 1
        flags |= os.O_CLOEXEC | os.O_NOCTTY
        try:
            descriptor = opener(path, flags | os.O_NONBLOCK)
        except BlockingIOError:
            descriptor = opener(path, flags)
        except OSError as error:
            if error.errno == errno.ELOOP:
                error.strerror = "a mailbox must not be a symbolic link; remove it"
            raise
        try:
            os.set_blocking(descriptor, True)
            self._check(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, path: str, state: os.stat_result) -> None:
        """Raise EPERM for what somebody else may have put there for us to open."""
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EPERM, "a mailbox must be a regular file; remove it", path)
        if state.st_uid != os.geteuid() and not self.any_owner:
            words = f"a mailbox must be your own, but uid {state.st_uid} owns it"
            advice = owner_advice(self.directory)
            raise OSError(errno.EPERM, f"{words}; {advice}" if advice else words, path)

    def _open_again(self, descriptor: int, access: ReadAccess) -> int:
        """Open the same file once more for reading."""
        self.operations.metadata += 1
        try:
            return access.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc: a strategy sees from the flags what it has to do
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)


@attrs.frozen
class Filler:
    """Makes all of a file's blocks really exist."""

    file: OwnFile
    operations: Operations
    abandoned: threading.Event

    def read(self, offset: int, length: int) -> bytes:
        """Read as the server has it; short at the end of the file."""
        with self.file.checking as descriptor:
            self.operations.count_read(self.file.access.read.metadata)
            return self.file.access.read.read(descriptor, offset, length)

    def fill(self, size: int, progress: Progress | None) -> None:
        """Write what is missing of `size` bytes and sync; what is there keeps its content."""
        with self.file.writing as descriptor:
            there = os.fstat(descriptor).st_size
            try:
                self._fill(descriptor, there, size, progress or _no_progress)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT) and there < size:
                    # Not to leave a full disk behind. On the way to here nobody could use it.
                    os.ftruncate(descriptor, there)
                raise

    def _fill(self, descriptor: int, there: int, size: int, progress: Progress) -> None:
        done = 0 if _is_sparse(descriptor, size) else min(there, size)
        progress(done, size)
        while done < size:
            if self.abandoned.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            length = min(PIECE, size - done)
            # In a file with holes every piece is written again with its own content: nothing
            # can get lost, and no filesystem needs to tell truly where its holes are.
            kept = self.read(done, min(length, there - done)) if done < there else b""
            self.file.access.write.write(descriptor, done, [kept, _ZEROS[: length - len(kept)]])
            self.operations.writes += 1
            done += length
            progress(done, size)
        self.operations.syncs += 1
        os.fsync(descriptor)


def same_file(left: os.stat_result, right: os.stat_result) -> bool:
    """Whether both are the attributes of one file."""
    return (left.st_dev, left.st_ino) == (right.st_dev, right.st_ino)


def _is_sparse(descriptor: int, size: int) -> bool:
    """Whether the file may have holes; in doubt yes (compression looks the same)."""
    state = os.fstat(descriptor)
    there = min(size, state.st_size)
    if state.st_blocks * 512 < there:
        return True
    try:  # finds small holes on local filesystems and NFS v4.2; others know none
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < there
    except OSError:
        return False


def _open_private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    with contextlib.suppress(OSError):  # SMB and others have no modes
        if os.fstat(descriptor).st_mode & 0o077:  # copied or restored by a generous tool
            os.fchmod(descriptor, 0o600)
    return descriptor


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # NFS: late write errors; all that mattered was synced
        os.close(descriptor)


def _no_progress(_done: int, _total: int) -> None:
    pass
