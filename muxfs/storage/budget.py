"""`--max-ops`: no more filesystem operations a second than somebody allowed.

A token bucket over the storages' own counts of operations. Each call waits for a token;
what it costs beyond that (a sync, opening and looking at names) is known when it was
done, and is paid by the calls after it. Beats and the last words of a side never wait.

Several sessions of one side share one `Allowance`; each has a `Budget` of it.
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


class Allowance:
    """Operations a second that all sessions of a side may make together."""

    def __init__(self, rate: float | None) -> None:
        """rate: operations a second; None: no bound."""
        self.rate = math.inf if rate is None else rate
        self._budgets: set[Budget] = set()
        self._settled = 0
        """Operations of those that are over."""
        self._began: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return self.rate != math.inf

    def add(self, budget: Budget) -> None:
        """Count what this one spends from now on."""
        self._budgets.add(budget)

    def settle(self, budget: Budget) -> None:
        """Keep what this one has spent, and watch it no more; again is no harm."""
        if budget in self._budgets:
            self._budgets.remove(budget)
            self._settled += budget.spent()

    def left(self) -> float:
        """Return the operations that are allowed now; at most those of a second accumulate."""
        now = trio.current_time()
        if self._began is None:
            self._began = now
        most = max(self.rate, 1.0 + PATIENT * self.rate)
        spent = self._settled + sum(budget.spent() for budget in self._budgets)
        left = (now - self._began) * self.rate - spent
        if left > most:
            self._began += (left - most) / self.rate
            left = most
        return left


class Budget:
    """One storage's share of an allowance: as much as the others leave."""

    def __init__(self, operations: Operations, allowance: Allowance) -> None:
        self._operations = operations
        self._allowance = allowance
        self._ignored = self._spent = operations.total
        allowance.add(self)

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return self._allowance.bounded

    async def take(self, rank: float) -> None:
        """Wait until one more operation is allowed, and count it."""
        if self.bounded:
            await self.ready(rank)
            self.spend()

    def spend(self) -> None:
        """Count an operation that begins."""
        self._spent += 1

    def spent(self) -> int:
        """Return how many operations there were, with those that begin."""
        self._spent = max(self._spent, self._operations.total)
        return self._spent - self._ignored

    async def ready(self, rank: float) -> None:
        """Wait until one more operation is allowed."""
        allowance = self._allowance
        least = 1 + rank * allowance.rate
        while (left := allowance.left()) < least:  # noqa: ASYNC110  (nobody tells when it is time)
            await trio.sleep(max(_SHORTEST_WAIT, (least - left) / allowance.rate))

    def settle(self) -> None:
        """End: what was spent stays counted."""
        self._allowance.settle(self)
