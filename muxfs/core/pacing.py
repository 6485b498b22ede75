"""How many bytes may be on their way: twice the measured rate times the round trip.

A ring of 16 MiB that is always full would delay each keystroke by 16 MiB of bulk;
one that is kept at the bandwidth-delay product is as fast. Delivery rate as in BBR
(draft-cardwell-iccrg-bbr, section 4.1): bytes acknowledged between the writing of
a batch and its acknowledgement, by that time.

The round trip that counts is that of a batch as large as those in use, sent while nothing
else was on its way. A small message's is shorter: a batch is written as a whole, then read
as a whole, and on NFS, where that takes ten times as long, its round trip kept the rate at a
tenth. One behind others contains their time, and the more are allowed the longer it is.
So from time to time, and whenever batches have grown, the writer lets the ring run empty, but
for light batches, and sends one batch alone (BBR's ProbeRTT, section 4.3.5, once for each size).
"""

from __future__ import annotations

from typing import Final

import attrs

from muxfs.core.extreme import Extreme

FLOOR: Final = 512 << 10
"""Bytes that are always allowed (protocol.md, section 8)."""

GAIN: Final = 2
LEAST_ROUND_TRIP: Final = 0.002
"""Seconds counted at least. A large batch takes a millisecond on its way through memory, and
with 1 MiB in flight only the next one could not start (tmpfs: 0.7 GB/s instead of 1 GB/s).
4 ms of queue are what a keystroke can bear."""

_RATE_PERIOD: Final = 1.0
_ROUND_TRIP_PERIOD: Final = 10.0
_PROBE_ROUND_TRIPS: Final = 50
"""Round trips between probes, at least: each costs about one."""

FIRST_ROUND_TRIP: Final = 0.1
"""Seconds assumed before the first measurement."""


@attrs.frozen
class Sending:
    """What was known when a batch was sent."""

    length: int
    at: float
    delivered: int
    alone: bool
    """Whether nothing else was on its way that takes time."""


@attrs.define
class Pacer:
    """Measures acknowledgements; says how many bytes may be in flight, and the round trip (s)."""

    delivered: int = 0
    smoothed: float | None = None
    allowance: int = FLOOR
    """Bytes that may be in flight; asked for at each write, so it is kept and not worked out."""

    probing: bool = False
    """Whether a batch is to be sent alone: when the ring has run empty."""

    _rate: Extreme = attrs.field(factory=lambda: Extreme(_RATE_PERIOD))
    _shortest: Extreme = attrs.field(factory=lambda: Extreme(_ROUND_TRIP_PERIOD))
    _alone: Extreme = attrs.field(factory=lambda: Extreme(2 * _ROUND_TRIP_PERIOD))
    _alone_length: int = 0
    _alone_at: float = 0.0

    def send(self, length: int, now: float, alone: bool) -> Sending:
        """Note that a batch is sent."""
        return Sending(length, now, self.delivered, alone)

    def acknowledged(self, sent: Sending, now: float) -> None:
        """Count a batch that arrived."""
        self.delivered += sent.length
        elapsed = now - sent.at
        if elapsed <= 0:
            return
        self._shortest.add(elapsed, now, greatest=False)
        self._rate.add((self.delivered - sent.delivered) / elapsed, now, greatest=True)
        if sent.alone:
            self._count_alone(sent.length, elapsed, now)
        elif not self.probing:
            pause = max(_ROUND_TRIP_PERIOD, _PROBE_ROUND_TRIPS * elapsed)
            grown = sent.length >= 2 * self._alone_length
            self.probing = grown or now - self._alone_at > pause
        rate = self._rate.best(greatest=True) or 0.0
        self.allowance = max(FLOOR, int(GAIN * rate * max(self.batch_round_trip, LEAST_ROUND_TRIP)))

    def _count_alone(self, length: int, elapsed: float, now: float) -> None:
        larger = length >= 2 * self._alone_length
        if larger or (self.probing and length < self._alone_length // 2):
            self._alone = Extreme(2 * _ROUND_TRIP_PERIOD)
            self._alone_length = length
        if length >= self._alone_length // 2:
            self._alone.add(elapsed, now, greatest=False)
            self._alone_at = now
        self.probing = False

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

    @property
    def batch_round_trip(self) -> float:
        """Shortest recent round trip of a batch of the size in use, sent alone."""
        alone = self._alone.best(greatest=False)
        return self.round_trip if alone is None else alone
