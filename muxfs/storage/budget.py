"""`--max-ops`: no more filesystem operations a second than somebody allowed.

A token bucket over the storage's own count of operations. Each call waits for a token;
what it costs beyond that (a sync, opening and looking at names) is known when it was
done, and is paid by the calls after it. Beats and the last words of a side never wait.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from muxfs.storage.base import Operations

LEAST_OPERATIONS: Final = 2.0
"""A second, at the least."""

LEAST_OPERATIONS_PER_BEAT: Final = 8.0
"""Status and sync, looks at the peer's and the own file, and some polls."""

URGENT: Final = 0.0
PATIENT: Final = 0.25
"""Share of a second's operations that calls of lower rank leave to others: so many polls
never take the place of an ack or a beat."""


_SHORTEST_WAIT: Final = 0.001


class Budget:
    """Bounds the operations of one storage; none if `rate` (operations a second) is None."""

    def __init__(self, operations: Operations, rate: float | None) -> None:
        self._operations = operations
        self._rate = math.inf if rate is None else rate
        self._spent = self._ignored = operations.total
        self._began = trio.current_time() if rate is not None else 0.0

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return self._rate != math.inf

    async def take(self, rank: float) -> None:
        """Wait until one more operation is allowed, and count it."""
        if self.bounded:
            await self.ready(rank)
            self.spend()

    def spend(self) -> None:
        """Count an operation that begins."""
        self._spent += 1

    async def ready(self, rank: float) -> None:
        """Wait until one more operation is allowed."""
        least = 1 + rank * self._rate
        while (left := self._left()) < least:  # noqa: ASYNC110  (nobody tells when it is time)
            await trio.sleep(max(_SHORTEST_WAIT, (least - left) / self._rate))

    def _left(self) -> float:
        """Operations that are allowed now; at most those of a second accumulate."""
        now = trio.current_time()
        self._spent = max(self._spent, self._operations.total)
        most = max(self._rate, 1.0 + PATIENT * self._rate)
        left = (now - self._began) * self._rate - (self._spent - self._ignored)
        if left > most:
            self._began += (left - most) / self._rate
            left = most
        return left
