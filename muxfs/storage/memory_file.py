"""A file in memory that is as bad as any file server can make it: old, torn, lost, failing.

Synchronous and free of chance, clock and trio: what is shown, torn or lost is the
caller's choice, so that a property-based test can draw it.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import attrs

from muxfs.storage.base import Buffer

PAGE: Final = 4096
"""Bytes of which a client has one version or another in its cache."""

Choose: TypeAlias = Callable[[int, int], int]
"""Called with (page number, versions kept); returns the age to show: 0 = newest, below versions."""

Ranges: TypeAlias = Iterable[tuple[int, int]]
"""(start, stop) in bytes from the start of a write: what of it reaches the file."""

Tear: TypeAlias = Callable[[int], Ranges]
"""Called with the length of a write that was cut off; returns what of it reaches the file."""


class FrozenView:
    """What a client shows that never asks again: each file as it was when first looked at."""

    def __init__(self) -> None:
        self._seen: dict[MemoryFile, bytes] = {}

    def __call__(self, file: MemoryFile, offset: int, length: int) -> bytes:
        """Read what was there."""
        if file not in self._seen:
            self._seen[file] = file.read(0, file.size)
        return self._seen[file][offset : offset + length]

    def forget(self) -> None:
        """Look again at the next read."""
        self._seen.clear()


def random_versions(rng: random.Random, stale: float = 0.5) -> Choose:
    """Make a `Choose` that shows a random older version of a page with probability `stale`."""

    def choose(_page: int, versions: int) -> int:
        return rng.randrange(versions) if rng.random() < stale else 0

    return choose


def random_tear(rng: random.Random, pieces: int = 4) -> Tear:
    """Make a `Tear` that keeps some of the pieces into which random cuts split a write."""

    def tear(length: int) -> Ranges:
        cuts = sorted({0, length, *(rng.randrange(length + 1) for _ in range(pieces - 1))})
        return [span for span in itertools.pairwise(cuts) if rng.random() < 0.5]

    return tear


@attrs.define
class _Fault:
    error: int
    left: int | None  # how many more calls fail; None: all
    lost: int


class MemoryFile:
    """A file of which a read may show each page in one of its last `versions`."""

    def __init__(self, versions: int = 1) -> None:
        self._versions = versions
        self._content = bytearray()
        self._older: dict[int, deque[bytes]] = {}  # by page, newest first
        self._undo: deque[tuple[int, bytes]] = deque(maxlen=versions - 1)
        self._faults: dict[str, _Fault] = {}

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._content)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other at `offset`, all of them at once.

        Raises the OSError that `fail` asked for; nothing is written then.
        """
        self.raise_if_asked("write")
        for buffer in buffers:
            data = memoryview(buffer).cast("B")
            self._apply(offset, data)
            offset += data.nbytes

    def write_torn(self, offset: int, buffers: Sequence[Buffer], ranges: Ranges) -> None:
        """Write only these (start, stop) ranges of the whole: a writer killed in the middle."""
        data = memoryview(b"".join(buffers))
        for start, stop in ranges:
            self._apply(offset + start, data[start:stop])

    def read(self, offset: int, length: int, choose: Choose | None = None) -> bytes:
        """Read up to `length` bytes; short at the end of the file.

        With `choose` each page is shown as old as it says, page by page, call by call.
        Raises the OSError that `fail` asked for.
        """
        self.raise_if_asked("read")
        if choose is None or not self._older:
            with memoryview(self._content) as view:
                return bytes(view[offset : offset + length])
        data = self._content[offset : offset + length]
        for page in _pages(offset, len(data)):
            older = self._older.get(page, ())
            age = choose(page, len(older) + 1)
            if age:
                overlay(data, page * PAGE - offset, older[age - 1])
        return bytes(data)

    def lose(self, writes: int) -> None:
        """Take the last writes back, at most `versions - 1`: pages gone with a failed sync."""
        for _ in range(min(writes, len(self._undo))):
            offset, before = self._undo.pop()
            self._remember(offset, len(before))
            overlay(self._content, offset, before)

    def truncate(self, size: int) -> None:
        """Cut the file, which forgets all older versions, or grow it with zeros."""
        if size < len(self._content):
            del self._content[size:]
            self._older.clear()
            self._undo.clear()
        else:
            self._content.extend(bytes(size - len(self._content)))

    def fail(
        self,
        operation: Literal["read", "write"],
        error: int,
        times: int | None = 1,
        lost: int = 0,
    ) -> None:
        """Let the next `times` calls (None: all until `heal`) raise OSError(`error`).

        With `lost`, a failing call takes that many earlier writes with it (`lose`):
        an fsync that tells late what was lost long before.
        """
        self._faults[operation] = _Fault(error, times, lost)

    def heal(self) -> None:
        """End what `fail` began."""
        self._faults.clear()

    def raise_if_asked(self, operation: Literal["read", "write"]) -> None:
        """Raise the OSError that `fail` asked for this time."""
        fault = self._faults.get(operation)
        if fault is None:
            return
        if fault.left is not None:
            fault.left -= 1
            if fault.left <= 0:
                del self._faults[operation]
        self.lose(fault.lost)
        raise OSError(fault.error, os.strerror(fault.error))

    def _apply(self, offset: int, data: memoryview) -> None:
        if not data.nbytes:
            return
        end = offset + data.nbytes
        if end > len(self._content):
            self.truncate(end)
        if self._versions > 1:
            self._remember(offset, data.nbytes)
            self._undo.append((offset, bytes(self._content[offset:end])))
        with memoryview(self._content) as view:
            view[offset:end] = data

    def _remember(self, offset: int, length: int) -> None:
        """Keep the pages of a range as they are now, as older versions."""
        for page in _pages(offset, length):
            older = self._older.setdefault(page, deque(maxlen=self._versions - 1))
            older.appendleft(bytes(self._content[page * PAGE : (page + 1) * PAGE]))


def _pages(offset: int, length: int) -> range:
    """Numbers of the pages that hold any of these bytes."""
    return range(offset // PAGE, math.ceil((offset + length) / PAGE))


def overlay(target: bytearray, start: int, data: bytes) -> None:
    """Put `data` at `start` of `target`, as far as the two overlap."""
    first, last = max(start, 0), min(start + len(data), len(target))
    if first < last:
        target[first:last] = data[first - start : last - start]
