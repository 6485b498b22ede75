"""How many bytes may be on their way: twice the measured rate times the round trip.

A ring of 16 MiB that is always full would delay each keystroke by 16 MiB of bulk;
one that is kept at the bandwidth-delay product is as fast. Delivery rate as in BBR
(draft-cardwell-iccrg-bbr, section 4.1): bytes acknowledged between the writing of
a batch and its acknowledgement, by that time.
"""

from __future__ import annotations

from typing import Final

import attrs

FLOOR: Final = 512 << 10
"""Bytes that are always allowed (protocol.md, section 8)."""

GAIN: Final = 2
LEAST_ROUND_TRIP: Final = 0.002
"""Seconds counted at least. The shortest round trip is that of a small batch; a large one takes
a millisecond on its way through memory, and with 1 MiB in flight only the next one could not
start (tmpfs: 0.7 GB/s instead of 1 GB/s). 4 ms of queue are what a keystroke can bear."""

_RATE_PERIOD: Final = 1.0
_ROUND_TRIP_PERIOD: Final = 10.0
FIRST_ROUND_TRIP: Final = 0.1
"""Seconds assumed before the first measurement."""


@attrs.define
class _Extreme:
    """The best of the current and the previous period: a cheap windowed filter."""

    period: float
    current: float | None = None
    previous: float | None = None
    _began: float = 0.0

    def add(self, value: float, now: float, greatest: bool) -> None:
        if now - self._began > self.period:
            self.previous = self.current if now - self._began < 2 * self.period else None
            self.current = None
            self._began = now
        if self.current is None or (value > self.current) == greatest:
            self.current = value

    def best(self, greatest: bool) -> float | None:
        known = [value for value in (self.current, self.previous) if value is not None]
        if not known:
            return None
        return max(known) if greatest else min(known)


@attrs.define
class Pacer:
    """Measures acknowledgements; says how many bytes may be in flight, and the round trip (s)."""

    delivered: int = 0
    smoothed: float | None = None
    allowance: int = FLOOR
    """Bytes that may be in flight; asked for at each write, so it is kept and not worked out."""

    _rate: _Extreme = attrs.field(factory=lambda: _Extreme(_RATE_PERIOD))
    _shortest: _Extreme = attrs.field(factory=lambda: _Extreme(_ROUND_TRIP_PERIOD))

    def acknowledged(self, length: int, sent_at: float, delivered_then: int, now: float) -> None:
        """Count a batch of `length` bytes that was written at `sent_at`."""
        self.delivered += length
        elapsed = now - sent_at
        if elapsed <= 0:
            return
        self._shortest.add(elapsed, now, greatest=False)
        self._rate.add((self.delivered - delivered_then) / elapsed, now, greatest=True)
        rate = self._rate.best(greatest=True) or 0.0
        self.allowance = max(FLOOR, int(GAIN * rate * max(self.round_trip, LEAST_ROUND_TRIP)))

    def answered(self, elapsed: float) -> None:
        """Count a PING's round trip, for people and for the window's tuning."""
        known = self.smoothed
        self.smoothed = elapsed if known is None else known + (elapsed - known) / 4

    @property
    def round_trip(self) -> float:
        """Shortest recent round trip in seconds."""
        shortest = self._shortest.best(greatest=False)
        if shortest is not None:
            return shortest
        return self.smoothed if self.smoothed is not None else FIRST_ROUND_TRIP
