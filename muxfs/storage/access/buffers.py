"""Page-aligned buffers, for reads that bypass the page cache."""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

import attrs

ALIGNMENT: Final = 4096
"""What O_DIRECT wants of offset, length and address; no filesystem we know wants more."""

SMALL: Final = 64 << 10
"""Bytes of the smallest buffers: those of polls."""

MANY: Final = 300
"""Small loans in a row after which larger buffers are not kept: idle, that is five minutes."""


class BufferPool:
    """Page-aligned buffers, used again: a fresh mapping costs a page fault per 4 KiB.

    Each borrower has its own, since a read that was abandoned on a dead server
    may still be filling it.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []  # append and pop are atomic
        self._small = 0
        """Small loans since the last larger one."""

    def borrow(self, length: int) -> Loan:
        """Lend `length` bytes for a `with` block."""
        self._small = self._small + 1 if length <= SMALL else 0
        if self._small and self._small % MANY == 0:
            self._drop_large()
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < length:
            memory = mmap.mmap(-1, max(SMALL, 1 << (length - 1).bit_length()))
        return Loan(self._free, memory, memoryview(memory)[:length])

    def _drop_large(self) -> None:
        """Give back what bulk needed: eight buffers of 2 MiB, or more."""
        for _ in range(len(self._free)):
            with contextlib.suppress(IndexError):  # another thread has borrowed it
                memory = self._free.pop()
                if len(memory) <= SMALL:
                    self._free.insert(0, memory)


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
