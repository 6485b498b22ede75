"""Pure arithmetic on samples: percentiles, buckets, and the offset of two hosts' clocks.

Times are in seconds, as `time.monotonic` gives them; two hosts' clocks have
nothing in common but their rate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

BOUNDS: Final = tuple(digit * 10.0**exponent for exponent in range(-5, 1) for digit in (1, 2, 5))
"""Upper bounds of a histogram's buckets in seconds, 10 us to 5 s; a last bucket has the rest."""


@attrs.frozen
class Summary:
    """Samples in four numbers, seconds."""

    count: int
    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary | None:
        """Sum the samples up; None without any."""
        if not samples:
            return None
        ordered = sorted(samples)
        return cls(len(ordered), _rank(ordered, 0.5), _rank(ordered, 0.99), ordered[-1])

    def facts(self) -> dict[str, float]:
        """Return it for programs, in milliseconds."""
        return {
            "count": self.count,
            "median_ms": round(self.median * 1e3, 4),
            "p99_ms": round(self.p99 * 1e3, 4),
            "max_ms": round(self.most * 1e3, 4),
        }


def _rank(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` of all samples do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def histogram(samples: Sequence[float]) -> list[int]:
    """Count samples by bucket: one for each of BOUNDS, and one for what is beyond them."""
    counts = [0] * (len(BOUNDS) + 1)
    for sample in samples:
        counts[bisect.bisect_left(BOUNDS, sample)] += 1
    return counts


Times = Mapping[int, float]
"""When a side did something with the message of that number, by its own clock."""


@attrs.frozen
class Delays:
    """How long writes took to be seen, from the start of the write."""

    there: list[float]
    """From the leader to the follower."""
    back: list[float]
    uncertainty: float
    """Half of what the clocks' offset could be otherwise: all of `there` may be off by as much
    in one direction, and all of `back` in the other one."""


def delays(sent: Times, seen: Times, answered: Times, got: Times) -> Delays | None:
    """Work out both directions' delays from a ping-pong; None without a whole round.

    `sent` and `got` are the leader's times, `seen` and `answered` the follower's. No delay
    is negative, which bounds the offset of the clocks from both sides; in the middle, the
    fastest message of each direction took equally long.
    """
    whole = [number for number in sent if number in seen and number in answered and number in got]
    if not whole:
        return None
    upper = min(seen[number] - sent[number] for number in whole)
    lower = max(answered[number] - got[number] for number in whole)
    offset = (upper + lower) / 2
    return Delays(
        [seen[number] - sent[number] - offset for number in whole],
        [got[number] - answered[number] + offset for number in whole],
        abs(upper - lower) / 2,
    )
