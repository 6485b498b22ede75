"""The storage interface: all that a session asks of a filesystem.

A session owns one mailbox file (it alone writes it) and reads one (it never
writes that). Content proves itself (epoch, position, checksum; see
`protocol.md`), so storage promises little: bytes written are, at some later
time and in any order, seen by the reader. It must not promise more, and the
session relies on nothing more.

Rule 1: no method blocks the event loop, and every method is a checkpoint.
Rule 2: a cancelled read may be abandoned in its thread; a cancelled write may
still reach the file (writing the same bytes again is harmless).
Rule 3: `OSError` is the only exception of the methods here; `errno` says why.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import attrs

Buffer: TypeAlias = bytes | bytearray | memoryview

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a mailbox is being filled; from any thread."""


Extent: TypeAlias = tuple[int, int]
"""Offset and length in bytes."""


class FileCondition(enum.Enum):
    """What `MailboxWriter.inspect` found at the mailbox's path."""

    INTACT = "intact"  # the path leads to the file that we hold, and it has its full size
    MISSING = "missing"  # no file of that name any more (unlinked, directory removed or renamed)
    REPLACED = "replaced"  # the name leads to another file than the one we hold
    SHORT = "short"  # our file, but it is shorter than it was made: somebody truncated it


@attrs.define
class Operations:
    """Filesystem operations so far; for people, and for `--max-ops`."""

    reads: int = 0
    writes: int = 0
    syncs: int = 0
    metadata: int = 0  # open, stat, close of names

    def count_read(self, metadata: int) -> None:
        """Count one read, and the opens and stats that come with it."""
        self.reads += 1
        self.metadata += metadata

    @property
    def total(self) -> int:
        """All operations together."""
        return self.reads + self.writes + self.syncs + self.metadata


@attrs.frozen
class Marker:
    """Bytes that, once they stand at `offset` of the file, mean news for the reader."""

    offset: int
    value: bytes

    def stands_in(self, data: bytes, offset: int) -> bool:
        """Whether it stands in `data`, which was read at `offset` and should hold it."""
        return data.startswith(self.value, self.offset - offset)


class MailboxWriter(abc.ABC):
    """This side's own mailbox file: one writer for the whole life of a session."""

    @abc.abstractmethod
    async def previous(self, length: int) -> bytes:
        """Read the start of what stands at the path, which is only opened for reading.

        Another process may still be writing it, so it is looked at before `prepare`.
        b"" where there is none. Raises OSError.
        """

    @abc.abstractmethod
    async def prepare(self, size: int, progress: Progress | None = None) -> bytes:
        """Open or create the file and make all of `size` bytes really exist.

        Missing blocks are written with zeros and synced (not only allocated:
        `posix_fallocate` succeeds on a full NFSv3 disk), so a full disk or quota
        is found here and never later. A file of the previous life is kept as it
        is, and grown where it is too short. Must be called once, first.

        Returns the first `HEAD_LENGTH` bytes of the previous life's content
        (zeros for a new file). Raises OSError (ENOENT, EACCES, EROFS, ENOSPC,
        EDQUOT, ELOOP for a symlink, EPERM for a file of another owner).
        """

    @abc.abstractmethod
    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other at `offset`; return when the peer can see them.

        The buffers must not change until this returns. Raises OSError; then any
        part may or may not have been written, also of earlier writes (an fsync
        error is told once and the pages are gone).
        """

    def begin_write(
        self,
        offset: int,  # noqa: ARG002
        buffers: Sequence[Buffer],  # noqa: ARG002
    ) -> Coroutine[Any, Any, None] | None:
        """Begin at once what `write` does, in another thread; None where only `write` can.

        What is returned is the rest of `write`, and must be awaited whatever happens.
        """
        return None

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:  # noqa: ARG002
        """Do what `write` does if that is a mere copy into memory, which cannot block.

        Returns whether it was done; if not, `write` must be used. Raises as that does.
        """
        return False

    @abc.abstractmethod
    async def read_back(self, offset: int, length: int) -> bytes:
        """Read from the own file past the local cache; short at the end of the file."""

    @abc.abstractmethod
    async def inspect(self) -> FileCondition:
        """Compare what stands at the path with the file that is held open."""

    @abc.abstractmethod
    async def recreate(self) -> None:
        """Open what now stands at the path, or create it, and fill it to its size with zeros.

        After `inspect` found MISSING, REPLACED or SHORT. Bytes that are there are
        left alone; the session then writes again all that it still needs.
        """

    @property
    @abc.abstractmethod
    def strategy(self) -> str:
        """Name of the strategy in use; "" where none is known yet."""

    @property
    @abc.abstractmethod
    def stronger(self) -> str | None:
        """Name of the strategy that makes more sure that the peer sees what is written, if any."""

    @abc.abstractmethod
    async def adopt(self, strategy: str) -> None:
        """Write by the strategy of that name (of `stronger`) from now on; opens the file again.

        The session then writes again all that it still needs. Raises as `recreate` does.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the file; the file itself stays."""


class MailboxReader(abc.ABC):
    """The peer's mailbox file: opened read-only, never created and never changed by this side."""

    @property
    @abc.abstractmethod
    def immediate(self) -> bool:
        """Whether reads are memory copies that cannot block, so that spinning on them is cheap."""

    @property
    def least_pause(self) -> float:
        """Seconds that must pass between two polls, for the filesystem's sake."""
        return 0.0

    @property
    def notifies(self) -> bool:
        """Whether `notice` tells of changes of any part of the file, at no cost."""
        return False

    async def notice(self) -> bool:
        """Wait, however long, for a change of the file; False if there is nobody to tell of it.

        Only for a reader that `notifies`.
        """
        return False

    @abc.abstractmethod
    async def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes as the file server has them now.

        b"" where the file is missing, empty or stale (ESTALE): it is then looked
        up afresh by the next call. Other errors are raised as OSError.
        """

    @abc.abstractmethod
    async def read_until(
        self, offset: int, length: int, marker: Marker, nap: float, timeout: float, rest: float = 0
    ) -> bytes:
        """Read as `read` does, and look every `nap` seconds until `marker` stands there.

        It must lie within what is read. The first look comes after `rest` seconds. Returns what
        was read last, after `timeout` seconds at the latest. One thread hop for all.
        """

    def read_now(self, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """Return what `read` would if that is a mere copy out of memory, which cannot block.

        None where `read` must be used, also for all errors.
        """
        return None

    @abc.abstractmethod
    async def watch(self, marker: Marker, nap: float, timeout: float) -> bool:
        """Poll every `nap` seconds until `marker` stands in the file, at most `timeout` seconds.

        One thread hop for the whole wait. Returns whether there may be news; False too where the
        file is missing or could not be read.
        """

    @property
    @abc.abstractmethod
    def strategy(self) -> str:
        """Name of the strategy in use; "" where none is known yet."""

    @property
    @abc.abstractmethod
    def others(self) -> Sequence[str]:
        """Names of other strategies that may see more than the one in use, the likeliest first."""

    @abc.abstractmethod
    async def read_by(self, strategy: str, extents: Sequence[Extent]) -> list[bytes]:
        """Read as `read` does, by the strategy of that name (of `others`), the file that is held.

        On a descriptor of its own: nothing of what is in use changes. Raises OSError.
        """

    @abc.abstractmethod
    async def adopt(self, strategy: str) -> None:
        """Read by the strategy of that name (of `others`) from now on. Raises OSError."""

    @abc.abstractmethod
    async def refresh(self) -> None:
        """Look the name up again, and follow it where it now leads to another file.

        The session calls it while the peer is silent: a mailbox that was deleted
        and made again is another file under the same name. Where none is held it asks the
        server nothing: each read looks the name up.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the file."""


class Storage(abc.ABC):
    """One session's pair of mailboxes as one side sees it."""

    operations: Operations
    writer: MailboxWriter
    reader: MailboxReader

    @property
    def strategy(self) -> str:
        """Names of the strategies in use, such as `direct+dsync`; "" where there are none."""
        names = (self.reader.strategy, self.writer.strategy)
        return "+".join(names) if all(names) else ""

    @abc.abstractmethod
    def describe(self) -> str:
        """Say in a few words for people what this is: path, filesystem type and server."""

    async def aclose(self) -> None:
        """Close both files, also if it is cancelled."""
        try:
            await self.writer.aclose()
        finally:
            await self.reader.aclose()
