"""How long a programme may take: what fails takes longer than what works, but not for ever.

Each exercise may use what is left but for what is reserved for those that matter and come
later, and is not begun where that is less than it needs. Rule: only calls to the filesystem
that do not return can make it longer.
"""

from __future__ import annotations

from typing import Final

import attrs

from muxfs.doctor.patience import OutOfTime, Patience

MOST: Final = 25.0
"""Seconds from the meeting to the report, if no more time was asked for: with the start, the
meeting and the cleaning up, a doctor ends within 30."""
AT_LEAST: Final = 1.25
"""Of the time that was asked for."""


def most_for(seconds: float) -> float:
    """Return how long measuring may take that was asked to take so many seconds."""
    return max(MOST, AT_LEAST * seconds)


@attrs.define
class Budget:
    """The time that is left."""

    seconds: float
    patience: Patience
    _end: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._end = self.patience.now() + self.seconds

    def left(self, reserved: float = 0.0) -> float:
        """Return the seconds that are left, without those that are reserved."""
        return self._end - self.patience.now() - reserved

    def take(self, least: float, reserved: float = 0.0) -> float:
        """Return the same, if it is enough. Raises OutOfTime."""
        left = self.left(reserved)
        if left < least:
            raise OutOfTime
        return left
