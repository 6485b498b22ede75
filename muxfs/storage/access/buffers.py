"""Page-aligned buffers, for reads that bypass the page cache."""

from __future__ import annotations

import mmap
from typing import Final

import attrs

ALIGNMENT: Final = 4096
"""What O_DIRECT wants of offset, length and address; no filesystem we know wants more."""

SMALL: Final = 64 << 10
"""Bytes of the smallest buffers: those of polls."""

LARGE: Final = 2 << 20
"""Bytes of all others, at the least. What is never used of one costs nothing, but each that were
dropped for a larger one while batches grow would be faulted in anew."""

MANY: Final = 300
"""Small loans in a row after which large buffers are not kept: idle, that is five minutes."""


class BufferPool:
    """Page-aligned buffers, used again: a fresh mapping costs a page fault per 4 KiB.

    Each borrower has its own, since a read that was abandoned on a dead server
    may still be filling it.
    """

    def __init__(self) -> None:
        self._small: list[mmap.mmap] = []  # append, pop and clear are atomic
        self._large: list[mmap.mmap] = []
        self._in_a_row = 0
        """Small loans since the last large one."""

    def borrow(self, length: int) -> Loan:
        """Lend `length` bytes for a `with` block."""
        if length <= SMALL:
            self._in_a_row += 1
            if self._in_a_row % MANY == 0:
                self._large.clear()
            return self._lend(self._small, length, SMALL)
        self._in_a_row = 0
        return self._lend(self._large, length, max(LARGE, 1 << (length - 1).bit_length()))

    @staticmethod
    def _lend(free: list[mmap.mmap], length: int, size: int) -> Loan:
        try:
            memory = free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < length:
            memory = mmap.mmap(-1, size)
        return Loan(free, memory, memoryview(memory)[:length])


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
