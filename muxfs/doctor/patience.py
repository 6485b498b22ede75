"""How a measurement in a thread is ended from outside, or by its time, and whether it moves."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Callable, Iterator


class Halted(Exception):
    """Whoever asked for the measurement wants it to end."""


class OutOfTime(TimeoutError):
    """What was to be measured took longer than there was time for it."""

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, "no time was left for it")


class Patience:
    """Every wait of a measurement, and every loop around calls of the filesystem, asks it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        """Seconds of the clock that counts."""
        self._halted = False
        self._until = math.inf
        self._last = clock()

    def halt(self) -> None:
        """End the measurement at its next look. From any thread."""
        self._halted = True

    @contextlib.contextmanager
    def until(self, moment: float) -> Iterator[None]:
        """Have what is measured in this block raise OutOfTime when the clock is that far."""
        self._until = moment
        try:
            yield
        finally:
            self._until = math.inf

    def check(self) -> None:
        """Raise Halted or OutOfTime if it is to end."""
        self._last = self.now()
        if self._halted:
            raise Halted
        if self._last > self._until:
            raise OutOfTime

    @property
    def still_for(self) -> float:
        """Seconds since the last look: a call to a dead server does not return."""
        return self.now() - self._last
