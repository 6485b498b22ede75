"""The greatest or smallest of what was measured lately."""

from __future__ import annotations

import attrs


@attrs.define
class Extreme:
    """The best of the current and the previous period: a cheap windowed filter. Seconds."""

    period: float
    current: float | None = None
    previous: float | None = None
    _began: float = 0.0

    def add(self, value: float, now: float, greatest: bool) -> None:
        """Count a value."""
        if now - self._began > self.period:
            self.previous = self.current if now - self._began < 2 * self.period else None
            self.current = None
            self._began = now
        if self.current is None or (value > self.current) == greatest:
            self.current = value

    def best(self, greatest: bool) -> float | None:
        """Return the greatest or smallest of one to two periods; None before the first."""
        current, previous = self.current, self.previous
        if current is None or previous is None:
            return current
        return max(current, previous) if greatest else min(current, previous)
