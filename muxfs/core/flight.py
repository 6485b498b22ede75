"""The writes that are under way: several where one takes long, and none over another.

Rule 1: at most one write of the head is under way: birth block and statuses stand in
the file in the order in which they were made.
Rule 2: no write begins that touches bytes of one that is under way: which of the two
would stay is the file server's choice, and a late one of an old batch would destroy a
newer one.

Writes end in any order. How many are under way follows from how long one takes: large
batches begin as soon as there is something to send, small ones wait for a fraction of
that time, so that what comes meanwhile goes with them.
"""

from __future__ import annotations

from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.wire import Buffer

MOST_WRITES: Final = 8
"""Batches under way at the most."""

SMALL_WRITES: Final = 4
"""A small batch waits for the time of one write divided by this since the last one began."""

_NEVER: Final = float("inf")


@attrs.define(eq=False)
class Write:
    """Buffers to be written one after the other at a file offset."""

    offset: int
    buffers: list[Buffer]
    repeats: bool = False
    """Whether it was written before, and may have been lost."""

    asks_for_ack: bool = False
    began: float = 0.0
    """When the engine gave it away."""

    length: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = sum(map(len, self.buffers))

    @property
    def in_head(self) -> bool:
        """Whether it is a birth block or a status."""
        return self.offset < wire.HEAD_LENGTH


@attrs.define
class Flight:
    """The writes that were given away and are not over."""

    operation_time: float = 0.0
    """Seconds that a write takes, smoothed."""

    _writes: list[Write] = attrs.field(factory=list)
    _last_began: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._writes)

    def begin(self, write: Write, now: float) -> Write:
        """Note that a write is under way from now on."""
        write.began = self._last_began = now
        self._writes.append(write)
        return write

    def end(self, write: Write, now: float) -> None:
        """Note that it is over, well or not."""
        self._writes.remove(write)
        self.operation_time += (now - write.began - self.operation_time) / 4

    @property
    def in_head(self) -> bool:
        """Whether a write of the head is under way."""
        return any(write.in_head for write in self._writes)

    @property
    def repeats(self) -> bool:
        """Whether something is being written again."""
        return any(write.repeats for write in self._writes)

    @property
    def full(self) -> bool:
        """Whether no other may begin until one is over."""
        return len(self._writes) >= MOST_WRITES

    @property
    def small_at(self) -> float:
        """From when on a small batch may begin; never, if only the end of a write allows it."""
        if not self._writes:
            return 0.0
        return _NEVER if self.full else self._last_began + self.operation_time / SMALL_WRITES

    def clear(self, offset: int, most: int) -> int:
        """Return how many of the `most` bytes at `offset` no write under way touches."""
        for write in self._writes:
            if write.offset < offset + most and offset < write.offset + write.length:
                most = max(0, write.offset - offset)
        return most
