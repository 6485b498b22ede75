"""How a measurement in a thread is ended from outside, and whether it still moves."""

from __future__ import annotations

import time


class Halted(Exception):
    """Whoever asked for the measurement wants it to end."""


class Patience:
    """Every wait of a measurement, and every loop around calls of the filesystem, asks it."""

    def __init__(self) -> None:
        self._halted = False
        self._last = time.monotonic()

    def halt(self) -> None:
        """End the measurement at its next look. From any thread."""
        self._halted = True

    def check(self) -> None:
        """Raise Halted if it is to end."""
        self._last = time.monotonic()
        if self._halted:
            raise Halted

    @property
    def still_for(self) -> float:
        """Seconds since the last look: a call to a dead server does not return."""
        return time.monotonic() - self._last
