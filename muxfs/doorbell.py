"""What wakes the tasks of a session: by a ring, or at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import trio


class Doorbell:
    """Wakes one task, which looks at the state itself; rings before it waits are not lost."""

    def __init__(self) -> None:
        self.rung = False
        self._lot = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        """Wake it, now or when it next waits."""
        self.rung = True
        if self._lot:
            self._lot.unpark()

    async def wait(self) -> None:
        """Wait for a ring."""
        if self.rung:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.park()
        self.rung = False


class Alarm:
    """Rings at a time that is moved all the while.

    For a task that waits often and is hardly ever late: a cancel scope around each wait costs
    70 calls of Python, and here a later time costs none.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self.due = math.inf
        """When it rings; set by `set`."""
        self._ring = ring
        self._scope = trio.CancelScope()

    def set(self, due: float) -> None:
        """Ring at that time, and not at another one."""
        self.due = due
        if due < self._scope.deadline:  # noqa: PLR1730  (to set it to what it is costs as much)
            self._scope.deadline = due

    async def run(self) -> NoReturn:
        """Ring when it is time, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self.due) as self._scope:
                await trio.sleep_forever()
            if trio.current_time() >= self.due:
                self.due = math.inf
                self._ring()
