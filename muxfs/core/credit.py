"""Credit of one receiving direction: how far the peer may send (protocol.md, section 9).

Absolute limits, as QUIC's MAX_STREAM_DATA (RFC 9000, section 4.1): giving the
same credit twice does no harm. The window doubles while the application takes a
window within a few round trips (as rust-yamux does), since a fixed one caps a
stream at window / round trip, and round trips here are 0.1 ms to seconds.
"""

from __future__ import annotations

from typing import Final

import attrs

MAX_WINDOW: Final = 16 << 20
SESSION_BUDGET: Final = 64 << 20
SHARE: Final = 4
"""A window doubles by no more than what is left of the budget divided by this, as queues do that
share a buffer (dynamic thresholds, Choudhury and Hahne 1998): a window never shrinks while its
stream lives, and four streams that once carried bulk would leave nothing for later ones."""

MOST_HELD_BACK: Final = 1 << 20
"""Bytes taken until credit is given for them. With half of a large window, a stream over a slow
filesystem gets half of what its window and the ring would let through."""

ROUND_TRIPS: Final = 4
LEAST_TURN: Final = 0.02
"""Seconds in which a taken window always counts as quick. On a fast filesystem the shortest
round trip (0.1 ms) leaves out the tasks on both sides that the next credit waits for: by it
alone windows stayed at 64 KiB, and a stream at 150 MB/s instead of 1 GB/s."""


@attrs.define
class WindowBudget:
    """Bytes that all windows of a session together may grow beyond their first size."""

    room: int = SESSION_BUDGET

    def take(self, size: int) -> bool:
        """Take `size` bytes if that leaves enough for others."""
        if SHARE * size > self.room:
            return False
        self.room -= size
        return True


@attrs.define
class ReceiveWindow:
    """What one stream's peer may send, in absolute stream offsets (bytes)."""

    budget: WindowBudget
    initial: int
    size: int = attrs.field(init=False)
    limit: int = attrs.field(init=False)
    consumed: int = 0
    _turn_began: float = 0.0
    _turn_at: int = 0

    def __attrs_post_init__(self) -> None:
        self.size = self.limit = self.initial

    def consume(self, length: int, now: float, round_trip: float) -> bool:
        """Count bytes that the application took; whether a new limit should be sent."""
        self.consumed += length
        if self.consumed - self._turn_at >= self.size // 2:
            quick = now - self._turn_began < max(ROUND_TRIPS * round_trip, LEAST_TURN)
            if quick and self.size < MAX_WINDOW and self.budget.take(self.size):
                self.size *= 2
            self._turn_began, self._turn_at = now, self.consumed
        if self.consumed + self.size - self.limit < min(self.size // 2, MOST_HELD_BACK):
            return False
        self.limit = self.consumed + self.size
        return True

    def release(self) -> None:
        """Give back to the budget what this window grew."""
        self.budget.room += self.size - self.initial
        self.size = self.initial
