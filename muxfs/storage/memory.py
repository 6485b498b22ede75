"""Mailboxes in memory, for tests: any session runs on them unchanged, in simulated time.

`MemoryFilesystem` holds files by name and hands out `MemoryStorage`, which adds
time to `MemoryFile`: latency, late visibility, a server that stops. Without any
fault asked for it is instantly coherent, and always deterministic: it knows no
thread, no clock but trio's and no chance but what the caller passes in.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import attrs
import trio

from muxfs.core.wire import HEAD_LENGTH
from muxfs.storage.base import (
    Buffer,
    Extent,
    FileCondition,
    MailboxReader,
    MailboxWriter,
    Marker,
    Operations,
    Progress,
    Storage,
)
from muxfs.storage.memory_file import Choose, MemoryFile, Tear, overlay

_SHORTEST_NAP: Final = 1e-4  # a nap of nothing would never let simulated time go on


View: TypeAlias = Callable[[MemoryFile, int, int], bytes]
"""Called with a file, offset and length; returns what a client shows of it."""


@attrs.define(eq=False)
class MemoryFilesystem:
    """A directory of `MemoryFile` that any number of storages share. All may be changed any time.

    fs = MemoryFilesystem(latency=0.002)
    listen = fs.storage("listen.mbx", "dial.mbx")
    dial = fs.storage("dial.mbx", "listen.mbx")
    """

    latency: float = 0.0
    """Seconds that each operation takes."""
    bandwidth: float | None = None
    """Bytes a second that the server takes, and as many that it gives; None: no limit."""
    visibility: float = 0.0
    """Seconds from the return of a write until a reader may see it."""
    capacity: int | None = None
    """Bytes that all files together may have (ENOSPC); None: no limit."""
    versions: int = 1
    """Versions of each page that files made from now on keep for `choose`."""
    choose: Choose | None = None
    """Which version of each page a reader sees; None: the newest."""
    tear: Tear | None = None
    """What reaches the file of a write that is cancelled; None: nothing."""
    gone: bool = False
    """Whether the directory is missing, with all names in it: nothing can be created (ENOENT)."""
    immediate: bool = False
    """What readers say of themselves. True spins the session: no autojump clock will jump."""
    views: dict[str, View] = attrs.field(factory=dict)
    """What readers by a strategy of that name are shown; others see the file as it is."""
    unseen: set[str] = attrs.field(factory=set)
    """Names of strategies whose writes nobody ever sees: they stay on the writer's host."""
    files: dict[str, MemoryFile] = attrs.field(factory=dict, init=False)
    """The files by name."""
    _changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _busy_until: dict[str, float] = attrs.field(factory=dict, init=False)
    _late: list[tuple[float, int, MemoryFile, int, bytes]] = attrs.field(factory=list, init=False)
    _ticket: Callable[[], int] = attrs.field(factory=lambda: itertools.count().__next__, init=False)

    def storage(
        self,
        own_name: str,
        peer_name: str,
        reads: Sequence[str] = ("memory",),
        writes: Sequence[str] = ("memory",),
    ) -> MemoryStorage:
        """Make one side's storage; the other side's has the names the other way round.

        `reads` and `writes` name strategies, those in use first; only what `views` and
        `unseen` say of them makes a difference.
        """
        return MemoryStorage(self, own_name, peer_name, reads, writes)

    def stop(self) -> None:
        """Stop the server: calls hang, as on a hard mount, until `resume`."""
        self._stopped = True

    def resume(self) -> None:
        """Start the server again: hanging calls go on where they were."""
        self._stopped = False
        self.notify()

    def unlink(self, name: str) -> None:
        """Delete a file; who holds it open goes on using it. KeyError if there is none."""
        del self.files[name]
        self.notify()

    def create(self, name: str, size: int = 0) -> MemoryFile:
        """Make a new file of that name, in place of the one that is there, and fill it with zeros.

        Raises OSError ENOSPC, ENOENT.
        """
        if self.gone:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        others = {other: file for other, file in self.files.items() if other != name}
        file = MemoryFile(self.versions)
        self.grow(file, size, others.values())
        self.files = {**others, name: file}
        self.notify()
        return file

    def grow(self, file: MemoryFile, size: int, others: Iterable[MemoryFile] | None = None) -> None:
        """Fill a file with zeros up to `size`. Raises OSError ENOSPC."""
        others = self.files.values() if others is None else others
        used = sum(other.size for other in others if other is not file)
        if self.capacity is not None and size > file.size and used + size > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size > file.size:
            file.truncate(size)

    def look_up(self, name: str) -> MemoryFile | None:
        """Get the file to which the name leads now."""
        return None if self.gone else self.files.get(name)

    def notify(self) -> None:
        """Wake up those who watch: call it after changing a file by its own methods."""
        self._changed.unpark_all()

    def publish(self, file: MemoryFile, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write to a file now, or after `visibility` as the next reader comes along."""
        if self.visibility > 0:
            file.raise_if_asked("write")
            due = trio.current_time() + self.visibility
            entry = (due, self._ticket(), file, offset, b"".join(buffers))
            heapq.heappush(self._late, entry)
        else:
            self.settle(math.inf)
            file.write(offset, buffers)
        self.notify()

    def settle(self, now: float) -> float:
        """Let all writes due by `now` become visible; return when the next one is (or inf)."""
        while self._late and self._late[0][0] <= now:
            _, _, file, offset, data = heapq.heappop(self._late)
            file.write_torn(offset, [data], [(0, len(data))])
        return self._late[0][0] if self._late else math.inf

    def read_settled(self, file: MemoryFile, offset: int, length: int) -> bytes:
        """Read what the server has: also what readers cannot see yet."""
        data = bytearray(file.read(offset, length))
        for _, _, target, start, late in sorted(self._late, key=lambda entry: entry[:2]):
            if target is file:
                overlay(data, start - offset, late)
        return bytes(data)

    async def served(self, way: str = "", length: int = 0) -> None:
        """Spend the time of one operation; hang while the server is stopped.

        What moves the same way shares the bandwidth: one after the other.
        """
        now = trio.current_time()
        moved = now
        if self.bandwidth is not None and length:
            moved = max(now, self._busy_until.get(way, now)) + length / self.bandwidth
            self._busy_until[way] = moved
        await trio.sleep_until(moved + self.latency)
        while self._stopped:
            await self._changed.park()

    async def changes(self, until: float) -> None:
        """Wait for a change that somebody makes, at most until `until`."""
        with trio.move_on_at(until):
            await self._changed.park()


class MemoryWriter(MailboxWriter):
    """The own mailbox in a `MemoryFilesystem`."""

    def __init__(
        self, fs: MemoryFilesystem, name: str, operations: Operations, strategies: Sequence[str]
    ) -> None:
        self._fs = fs
        self._name = name
        self._operations = operations
        self._strategies = strategies
        self._file: MemoryFile | None = None
        self._size = 0
        self._strategy = strategies[0]

    async def previous(self, length: int) -> bytes:  # noqa: D102
        await self._fs.served()
        self._operations.reads += 1
        before = self._fs.look_up(self._name)
        return b"" if before is None else self._fs.read_settled(before, 0, length)

    async def prepare(self, size: int, progress: Progress | None = None) -> bytes:  # noqa: D102
        await self._fs.served()
        self._operations.metadata += 1
        before = self._fs.look_up(self._name)
        head = b"" if before is None else self._fs.read_settled(before, 0, HEAD_LENGTH)
        self._hold(size)
        if progress is not None:
            progress(size, size)
        return head.ljust(HEAD_LENGTH, b"\0")

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:  # noqa: D102
        file = self._held()
        self._operations.writes += 1
        try:
            await self._fs.served("in", sum(memoryview(buffer).nbytes for buffer in buffers))
        except trio.Cancelled:
            if self._fs.tear is not None:
                length = sum(memoryview(buffer).nbytes for buffer in buffers)
                file.write_torn(offset, buffers, self._fs.tear(length))
            raise
        if self.strategy not in self._fs.unseen:
            self._fs.publish(file, offset, buffers)

    async def read_back(self, offset: int, length: int) -> bytes:  # noqa: D102
        file = self._held()
        self._operations.reads += 1
        await self._fs.served()
        return self._fs.read_settled(file, offset, length)

    async def inspect(self) -> FileCondition:  # noqa: D102
        held = self._held()
        self._operations.metadata += 1
        await self._fs.served()
        named = self._fs.look_up(self._name)
        if named is None:
            return FileCondition.MISSING
        if named is not held:
            return FileCondition.REPLACED
        return FileCondition.SHORT if held.size < self._size else FileCondition.INTACT

    async def recreate(self) -> None:  # noqa: D102
        self._held()
        self._operations.metadata += 1
        await self._fs.served()
        self._hold(self._size)

    @property
    def strategy(self) -> str:  # noqa: D102
        return self._strategy

    @property
    def stronger(self) -> str | None:  # noqa: D102
        following = self._strategies.index(self.strategy) + 1
        return self._strategies[following] if following < len(self._strategies) else None

    async def adopt(self, strategy: str) -> None:  # noqa: D102
        self._strategy = strategy
        await self.recreate()

    async def aclose(self) -> None:  # noqa: D102
        self._file = None
        await trio.lowlevel.checkpoint()

    def _held(self) -> MemoryFile:
        if self._file is None:
            raise OSError(errno.EBADF, "the mailbox is not open", self._name)
        return self._file

    def _hold(self, size: int) -> None:
        """Hold what stands at the name, or a new file, in full size."""
        file = self._fs.look_up(self._name)
        if file is None:
            file = self._fs.create(self._name, size)
        else:
            self._fs.grow(file, size)
        self._operations.writes += 1
        self._file, self._size = file, size


class MemoryReader(MailboxReader):
    """The peer's mailbox in a `MemoryFilesystem`."""

    def __init__(
        self, fs: MemoryFilesystem, name: str, operations: Operations, strategies: Sequence[str]
    ) -> None:
        self._fs = fs
        self._name = name
        self._operations = operations
        self._strategies = strategies
        self._file: MemoryFile | None = None
        self._closed = False
        self._strategy = strategies[0]

    @property
    def immediate(self) -> bool:  # noqa: D102
        return self._fs.immediate

    async def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        self._operations.reads += 1
        await self._fs.served("out", length)
        return self._look(self.strategy, offset, length)

    async def read_until(  # noqa: D102
        self, offset: int, length: int, marker: Marker, nap: float, timeout: float, rest: float = 0
    ) -> bytes:
        deadline = trio.current_time() + timeout
        if rest > 0:
            await trio.sleep(rest)
        while True:
            data = await self.read(offset, length)
            left = deadline - trio.current_time()
            if marker.stands_in(data, offset) or left <= 0:
                return data
            await trio.sleep(min(nap, left))

    async def watch(self, marker: Marker, nap: float, timeout: float) -> bool:
        """See the interface. Notices a change at once; counts what naps would have cost."""
        deadline = trio.current_time() + timeout
        nap = max(nap, _SHORTEST_NAP)
        while True:
            self._operations.reads += 1
            await self._fs.served()
            try:
                data = self._look(self.strategy, marker.offset, len(marker.value))
            except OSError:
                data = b""
            if data == marker.value:
                return True
            asked = trio.current_time()
            if asked >= deadline:
                return False
            again = min(deadline, self._fs.settle(asked))
            if self._fs.choose is not None or not data:
                again = min(again, asked + nap)  # no write announces that an old page is done with
            await self._fs.changes(until=again)
            naps = round((trio.current_time() - asked) / nap)
            self._operations.reads += max(0, naps - 1)
            if not data:
                return False

    @property
    def strategy(self) -> str:  # noqa: D102
        return self._strategy

    @property
    def others(self) -> Sequence[str]:  # noqa: D102
        return [name for name in self._strategies if name != self.strategy]

    async def read_by(self, strategy: str, extents: Sequence[Extent]) -> list[bytes]:  # noqa: D102
        self._operations.metadata += 1
        found = []
        for extent in extents:
            self._operations.reads += 1
            await self._fs.served()
            found.append(self._look(strategy, *extent))
        return found

    async def adopt(self, strategy: str) -> None:  # noqa: D102
        self._strategy = strategy
        await self.refresh()

    async def refresh(self) -> None:  # noqa: D102
        if self._file is None:
            await trio.lowlevel.checkpoint()
            return
        self._operations.metadata += 1
        await self._fs.served()
        if not self._closed:
            self._file = self._fs.look_up(self._name) or self._file

    async def aclose(self) -> None:  # noqa: D102
        self._closed = True
        self._file = None
        await trio.lowlevel.checkpoint()

    def _look(self, strategy: str, offset: int, length: int) -> bytes:
        self._fs.settle(trio.current_time())
        if self._file is None and not self._closed:
            self._file = self._fs.look_up(self._name)
        if self._file is None:
            return b""
        try:
            if (view := self._fs.views.get(strategy)) is not None:
                return view(self._file, offset, length)
            return self._file.read(offset, length, self._fs.choose)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self._file = None
            return b""


class MemoryStorage(Storage):
    """One side's mailboxes in a `MemoryFilesystem`; made by its `storage`."""

    def __init__(
        self,
        fs: MemoryFilesystem,
        own_name: str,
        peer_name: str,
        reads: Sequence[str],
        writes: Sequence[str],
    ) -> None:
        self.operations = Operations()
        self.writer = MemoryWriter(fs, own_name, self.operations, writes)
        self.reader = MemoryReader(fs, peer_name, self.operations, reads)

    def describe(self) -> str:
        """Say that it is memory."""
        return "memory"
