"""Mailboxes that are real files, on any filesystem.

Rule 1: whatever may wait for a disk or a server runs in a worker thread, under
this storage's own crew: a thread hop costs 40 us, a dead server all threads of a
shared one. One hop per call, and none for what cannot block.
Rule 2: a thread that hangs cannot be stopped, not even by SIGKILL. So every
call is abandoned when it is cancelled, and nothing waits for abandoned threads:
they find `abandoned` set when they come back, and leave at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import attrs
import trio

from muxfs.blocking import in_own_thread
from muxfs.core.wire import HEAD_LENGTH
from muxfs.storage.access import ALIGNMENT, READS, WRITES, Access
from muxfs.storage.base import (
    Buffer,
    Extent,
    FileCondition,
    MailboxReader,
    MailboxWriter,
    Marker,
    Progress,
    Storage,
)
from muxfs.storage.choices import other_reads, stronger_write
from muxfs.storage.crew import Job
from muxfs.storage.files import GONE, Filler, OwnFile, PeerFile, same_file
from muxfs.storage.filesystem import Filesystem, guess_filesystem
from muxfs.storage.ground import Ground
from muxfs.storage.notify import FileNotifier
from muxfs.storage.ranges import WHOLE

CLOSE_GRACE: Final = 0.5
"""Seconds that `aclose` waits for a file to be closed before it leaves that to its thread."""

CHEAP: Final = 2 * ALIGNMENT
"""Bytes that may be read again and again for nothing; of more only the first ones are looked at."""

SHORT: Final = 0.005
"""Seconds of rest that nobody needs to cut short."""

SMALL: Final = 16 << 10
"""Bytes of writes under way that looks wait for."""

HOLD: Final = 0.005
"""Seconds that they do so at the most."""

INLINE_LIMIT: Final = 4 << 20
"""Longest copy on the event loop, in bytes: 0.3 ms."""

SHOWN: Final = 4
"""Looks at the own file, after it was made, that show its name: they take 7 s together, and some
servers keep whole seconds."""


class PosixWriter(MailboxWriter):
    """The own mailbox file."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground = ground
        self._name = name
        self._size = 0
        self._to_show = 0
        self._file: OwnFile | None = None
        self._closed = False
        self._writing = ground.writing
        self._swapping = threading.Lock()

    async def previous(self, length: int) -> bytes:  # noqa: D102
        def job(_abandoned: threading.Event) -> bytes:
            file = self._ground.open_peer(self._name)
            return b"" if file is None else self._ground.read_once(file, [(0, length)])[0]

        return await self._ground.crew.run(job)

    async def prepare(self, size: int, progress: Progress | None = None) -> bytes:  # noqa: D102
        def job(abandoned: threading.Event) -> bytes:
            self._ground.resolve()
            return self._make(size, progress, abandoned)

        return await self._ground.crew.run(job)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:  # noqa: D102
        # Cancelled before or not at all: a write that was done is always reported so.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            done = self.write_now(offset, buffers)
        except OSError:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        if done:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return

        await self._ground.crew.run(self._writing_job(offset, buffers))

    def begin_write(  # noqa: D102
        self, offset: int, buffers: Sequence[Buffer]
    ) -> Coroutine[Any, Any, None] | None:
        return self._ground.crew.begin(self._writing_job(offset, buffers))

    def _writing_job(self, offset: int, buffers: Sequence[Buffer]) -> Job[None]:
        def job(abandoned: threading.Event) -> None:
            with self._writing.locked((offset, offset + _length(buffers))):
                if not abandoned.is_set():
                    self._write(offset, buffers)

        return job

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:  # noqa: D102
        access, length = self._ground.access, _length(buffers)
        if access is None or not access.write.inline or length > INLINE_LIMIT:
            return False
        extent = (offset, offset + length)
        if not self._writing.try_acquire(extent):
            return False
        try:
            self._write(offset, buffers)
        finally:
            self._writing.release(extent)
        return True

    async def read_back(self, offset: int, length: int) -> bytes:  # noqa: D102
        def job(abandoned: threading.Event) -> bytes:
            return self._filler(self._held(), abandoned).read(offset, length)

        return await self._ground.crew.run(job)

    async def inspect(self) -> FileCondition:  # noqa: D102
        return await self._ground.crew.run(self._inspect)

    async def recreate(self) -> None:  # noqa: D102
        def job(abandoned: threading.Event) -> None:
            self._held()
            with self._writing.locked(WHOLE):
                self._make(self._size, None, abandoned)

        await self._ground.crew.run(job)

    @property
    def strategy(self) -> str:  # noqa: D102
        return self._ground.access.write.name if self._ground.access is not None else ""

    @property
    def stronger(self) -> str | None:  # noqa: D102
        return stronger_write(self.strategy) if self._ground.may_change else None

    async def adopt(self, strategy: str) -> None:  # noqa: D102
        ground = self._ground
        with ground.changing(attrs.evolve(ground.resolve(), write=WRITES[strategy]())):
            await self.recreate()

    async def aclose(self) -> None:  # noqa: D102
        with self._swapping:
            self._closed = True
            file, self._file = self._file, None
        await _close_within_grace(file)

    def _held(self) -> OwnFile:
        if self._file is None:
            raise OSError(errno.EBADF, "the mailbox is not open", self._path())
        return self._file

    def _path(self) -> str:
        return self._ground.opener.path(self._name)

    def _filler(self, file: OwnFile, abandoned: threading.Event) -> Filler:
        return Filler(file, self._ground.operations, abandoned)

    def _write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        file = self._held()
        write, operations = file.access.write, self._ground.operations
        with file.writing as descriptor:
            operations.writes += 1
            operations.syncs += write.syncs
            operations.metadata += write.metadata
            write.write(descriptor, offset, buffers)

    def _make(self, size: int, progress: Progress | None, abandoned: threading.Event) -> bytes:
        """Open what stands at the path, or create it, fill it and hold it; return its old head."""
        file = self._ground.opener.open_own(self._name, self._ground.resolve())
        try:
            filler = self._filler(file, abandoned)
            head = filler.read(0, HEAD_LENGTH)
            if not head:
                self._to_show = SHOWN
            filler.fill(size, progress)
        except BaseException:
            file.close()
            raise
        with self._swapping:
            if abandoned.is_set() or self._closed:
                unwanted: OwnFile | None = file
            else:
                unwanted, self._file, self._size = self._file, file, size
        if unwanted is not None:
            unwanted.close()
        return head.ljust(HEAD_LENGTH, b"\0")

    def _inspect(self, _abandoned: threading.Event) -> FileCondition:
        if self._to_show:
            self._to_show -= 1
            self._ground.opener.show_names()
        named = self._ground.opener.stat_name(self._name)
        if named is None:
            return FileCondition.MISSING
        try:
            self._ground.operations.metadata += 1
            with self._held().writing as descriptor:
                held = os.fstat(descriptor)
        except OSError as error:
            if error.errno in GONE:
                return FileCondition.REPLACED  # ours is gone from the server, yet the name exists
            raise
        if not same_file(named, held):
            return FileCondition.REPLACED
        return FileCondition.SHORT if named.st_size < self._size else FileCondition.INTACT


class PosixReader(MailboxReader):
    """The peer's mailbox file."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground = ground
        self._name = name
        self._file: PeerFile | None = None
        self._closed = False
        self._swapping = threading.Lock()
        self._notifier: FileNotifier | None = None
        self._notified: PeerFile | None = None

    @property
    def notifies(self) -> bool:
        """Whether the kernel tells of changes: it does where it alone has the file."""
        file = self._file
        if file is not self._notified:
            self._stop_notifying()
            self._notified = file
            if file is not None and self.immediate:
                # no inotify left for this user: polling does as well
                with contextlib.suppress(OSError), file.reading as descriptor:
                    self._notifier = FileNotifier(descriptor)
        return self._notifier is not None

    @property
    def least_pause(self) -> float:  # noqa: D102
        filesystem = self._ground.filesystem
        return filesystem.choice.least_pause if filesystem is not None else 0.0

    @property
    def immediate(self) -> bool:  # noqa: D102
        file = self._file
        return file is not None and file.read.immediate

    async def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        if self.immediate:
            await trio.lowlevel.checkpoint()  # first, so that what is returned is the latest
            data = self.read_now(offset, length)
            if data is not None:
                return data
        return await self._ground.crew.run(lambda _abandoned: self._read(offset, length))

    async def read_until(  # noqa: D102
        self, offset: int, length: int, marker: Marker, nap: float, timeout: float, rest: float = 0
    ) -> bytes:
        def job(abandoned: threading.Event) -> bytes:
            deadline = time.monotonic() + timeout
            if rest > 0 and not self._rest(rest, abandoned):
                return b""
            data = self._read(offset, length)
            while not marker.stands_in(data, offset):
                left = deadline - time.monotonic()
                # a file that is missing is looked for at the caller's pace
                if left <= 0 or not self._rest(min(nap, left) if data else left, abandoned):
                    break
                if length > CHEAP:
                    left = deadline - time.monotonic()
                    if not self._watch(marker, nap, left, abandoned):
                        break
                data = self._read(offset, length)
            return data

        return await self._ground.crew.run(job)

    def read_now(self, offset: int, length: int) -> bytes | None:  # noqa: D102
        file = self._file
        if file is None or length > INLINE_LIMIT:
            return None
        try:
            with file.reading as descriptor:
                data = file.read.read_now(descriptor, offset, length)
        except OSError:
            return None
        if data is not None:
            self._ground.operations.reads += 1
        return data

    async def watch(self, marker: Marker, nap: float, timeout: float) -> bool:  # noqa: D102
        def job(abandoned: threading.Event) -> bool:
            return self._watch(marker, nap, timeout, abandoned)

        with contextlib.suppress(OSError):  # no thread to be had: `read` will tell
            return await self._ground.crew.run(job)
        return False

    async def notice(self) -> bool:  # noqa: D102
        if self.notifies and self._notifier is not None:
            with contextlib.suppress(trio.ClosedResourceError):
                await self._notifier.wait()
                return True
        await trio.lowlevel.checkpoint()
        return False

    @property
    def strategy(self) -> str:  # noqa: D102
        return self._ground.access.read.name if self._ground.access is not None else ""

    @property
    def others(self) -> Sequence[str]:  # noqa: D102
        return other_reads(self.strategy) if self._ground.may_change else ()

    async def read_by(self, strategy: str, extents: Sequence[Extent]) -> list[bytes]:  # noqa: D102
        def job(_abandoned: threading.Event) -> list[bytes]:
            ground, read, held = self._ground, READS[strategy](), self._file
            if held is None:
                file = ground.opener.open_peer(self._name, read)
            else:
                with held.reading as descriptor:
                    file = ground.opener.open_again(descriptor, read)
            return [b"" for _ in extents] if file is None else ground.read_once(file, extents)

        return await self._ground.crew.run(job)

    async def adopt(self, strategy: str) -> None:  # noqa: D102
        ground = self._ground
        with ground.changing(attrs.evolve(ground.resolve(), read=READS[strategy]())):
            await self._hold_afresh()

    async def refresh(self) -> None:  # noqa: D102
        if self._file is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._hold_afresh()

    async def aclose(self) -> None:  # noqa: D102
        with self._swapping:
            self._closed = True
            file, self._file = self._file, None
        self._stop_notifying()
        await _close_within_grace(file)

    async def _hold_afresh(self) -> None:
        await self._ground.crew.run(lambda _abandoned: self._look_up())

    def _stop_notifying(self) -> None:
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()

    def _read(self, offset: int, length: int) -> bytes:
        file = self._file or self._look_up()
        if file is None:
            return b""
        try:
            return self._ground.read(file, offset, length)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._swap(file, None)
            return b""

    def _watch(
        self, marker: Marker, nap: float, timeout: float, abandoned: threading.Event
    ) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            try:
                data = self._read(marker.offset, len(marker.value))
            except OSError:
                data = b""  # `read` will tell
            if data == marker.value:
                return True
            left = deadline - time.monotonic()
            # A file that is missing is looked for by the caller, at its own pace.
            if left <= 0 or not self._rest(min(nap, left), abandoned) or not data:
                return False

    def _rest(self, seconds: float, abandoned: threading.Event) -> bool:
        """Wait until the next look; whether there is to be one.

        While a small write of this side is under way its answer cannot be there, and a look
        takes time from it: they share a connection, and the interpreter's lock.
        """
        if seconds <= SHORT:
            time.sleep(seconds)  # a third cheaper than to wait for an event
            self._ground.writing.wait_for_small(SMALL, HOLD)
        else:
            abandoned.wait(seconds)
        return not (abandoned.is_set() or self._closed)

    def _look_up(self) -> PeerFile | None:
        """Open what the name now leads to and hold that; keep what is held if it leads nowhere.

        The new descriptor is kept also where it is the same file by its number: some
        filesystems give the number of a deleted file to the next one.
        """
        before = self._file
        try:
            file = self._ground.open_peer(self._name)
        except FileNotFoundError:
            return before
        return before if file is None else self._swap(before, file)

    def _swap(self, before: PeerFile | None, fresh: PeerFile | None) -> PeerFile | None:
        """Hold `fresh` instead of `before`, unless an abandoned look-up comes late."""
        with self._swapping:
            if self._closed or self._file is not before:
                unwanted = fresh
            else:
                unwanted, self._file = before, fresh
            held = self._file
        if unwanted is not None:
            unwanted.close()
        return held


class PosixStorage(Storage):
    """A pair of mailbox files `own_name` and `peer_name` in `directory`.

    The directory need not exist yet for the reader; the writer's `prepare` raises
    ENOENT then. Without `access` the filesystem decides (`default_access`).
    Constructing it touches no filesystem. Files must belong to the effective user, but
    for `any_owner`: some mounts show all files as somebody else's.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        own_name: str,
        peer_name: str,
        access: Access | None = None,
        *,
        any_owner: bool = False,
    ) -> None:
        self._ground = Ground(os.fspath(directory), access, any_owner)
        self.operations = self._ground.operations
        self.writer = PosixWriter(self._ground, own_name)
        self.reader = PosixReader(self._ground, peer_name)

    @property
    def filesystem(self) -> Filesystem:
        """The filesystem of the directory; before the first call only judged by the path."""
        return self._ground.filesystem or guess_filesystem(self._ground.directory)

    @property
    def access(self) -> Access | None:
        """The strategies in use; None before the first call has found out the filesystem."""
        return self._ground.access

    async def aclose(self) -> None:
        """Close both files; threads end when they come back."""
        try:
            await super().aclose()
        finally:
            self._ground.crew.close()

    def describe(self) -> str:
        """Describe it for people: `/home/ann/.muxfs/job on nfs4 (nas1:/home), vers=4.2`."""
        return f"{self._ground.directory} on {self.filesystem.describe()}"


def _length(buffers: Sequence[Buffer]) -> int:
    return sum(memoryview(buffer).nbytes for buffer in buffers)


async def _close_within_grace(file: OwnFile | PeerFile | None) -> None:
    """Close in a thread of its own: never queued behind hung calls, never waited for long."""
    if file is None:
        await trio.lowlevel.checkpoint()
        return
    # without a thread it stays open: closing must not block the event loop
    with trio.move_on_after(CLOSE_GRACE, shield=True), contextlib.suppress(OSError):
        await in_own_thread(file.close)
    await trio.lowlevel.checkpoint_if_cancelled()
