"""The peer's ring as its reader sees it: which bytes to read, and which are valid.

Rule 1: what is not proven by epoch, position and checksum is not there yet.
Rule 2: the read position moves only over valid batches, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.wire import PAGE, BatchHeader, BatchProof

LARGE_READ: Final = 1 << 20
"""Most that is read on a guess (bytes)."""

MISSES: Final = 1
"""Polls in a row that may find nothing until guessing ends: each has the file server send a
batch for nothing (NFS, with a guess of two batches: twice the bytes that were needed)."""


@attrs.frozen
class Batch:
    """A valid batch; `body` is a view into what was read, or into what was sealed there."""

    header: BatchHeader
    body: memoryview


@attrs.define
class ReceiveRing:
    """Reads one epoch of the peer's ring."""

    epoch: int
    ring_offset: int
    capacity: int
    max_batch: int
    proof: BatchProof = attrs.field(default=wire.by_checksum, kw_only=True)
    position: int = 0
    speculate: bool = False
    torn: int = 0
    incomplete: bool = False
    """A batch was seen that is longer than what was read: worth reading again at once."""
    _wanted: int = PAGE
    _guess: int = PAGE
    _misses: int = 0

    @property
    def extent(self) -> tuple[int, int]:
        """Where in the file to read next, and how much: (offset, length)."""
        at = self.position % self.capacity
        return self.ring_offset + at, min(self._wanted, self.capacity - at)

    @property
    def marker(self) -> bytes:
        """Bytes at `wire.MARKER_OFFSET` of the next batch."""
        return wire.marker_of(self.epoch, self.position)

    def receive(self, data: bytes) -> Iterator[Batch]:
        """Take what was read at `extent`; yield the valid batches in it, in order."""
        view = memoryview(data)
        asked, self._wanted, self.incomplete = self._wanted, PAGE, False
        at = 0
        while at < len(view):
            header = self._header(view[at:])
            if header is None:
                break
            length = header.length
            whole = view[at : at + length]
            if len(whole) < length:
                self._wanted = wire.align(length) + PAGE
                # asked for all of it and got less: a short file, not worth a hot read
                self.incomplete = at > 0 or asked < length
                return
            body = self.proof.check(header, whole)
            if body is None:
                self.torn += 1
                self._wanted = wire.align(length) + PAGE
                return
            self.position += self._stride(header)
            at += wire.align(length)
            yield Batch(header, body)
            if header.pad:
                self.incomplete = True
                return
        if self.speculate:
            self._wanted = self._speculation(at)

    def _speculation(self, found: int) -> int:
        """Return how much to read where a read is a round trip: as much as last time.

        Not only once: a reader that is early by a moment would need two reads for each of
        the next batches, and never catch up (20 ms a read: half the speed).
        """
        if found:
            self._guess = min(LARGE_READ, max(PAGE, found + PAGE))
            self._misses = 0
        else:
            self._misses += 1
        return self._guess if self._misses <= MISSES else PAGE

    def _header(self, view: memoryview) -> BatchHeader | None:
        header = wire.decode_batch_header(view, self.epoch, self.position)
        if header is None or header.sealed != self.proof.sealed:
            return None
        room = self.capacity - self.position % self.capacity
        return header if header.length <= min(self.max_batch, room) else None

    def _stride(self, header: BatchHeader) -> int:
        if header.pad:
            return self.capacity - self.position % self.capacity
        return wire.align(header.length)
