"""Page-aligned buffers, for reads that bypass the page cache."""

from __future__ import annotations

import mmap
from typing import Final

import attrs

ALIGNMENT: Final = 4096
"""What O_DIRECT wants of offset, length and address; no filesystem we know wants more."""


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
