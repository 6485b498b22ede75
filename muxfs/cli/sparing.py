"""What others can make happen again and again is told so often a minute, and then counted.

Any user of the host can have connections refused, and the other side can ask for more than it
gets: neither is to fill a log.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

MOST: Final = 20
"""Events of a kind that are told one by one in a period."""
PERIOD: Final = 60.0
"""Seconds."""


@attrs.define
class Sparing:
    """Events of one kind."""

    over: float = -math.inf
    """When the period ends."""
    _told: int = 0
    _kept: int = 0

    def take(self, now: float) -> bool:
        """Count an event; whether to tell it."""
        if now >= self.over:
            self.over, self._told = now + PERIOD, 0
        if self._told < MOST:
            self._told += 1
            return True
        self._kept += 1
        return False

    def rest(self) -> int:
        """Return how many were not told, once."""
        kept, self._kept = self._kept, 0
        return kept
