"""Ending on Ctrl-C, SIGTERM and a closed terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

import trio

from muxfs.cli.failures import leave

GRACE: Final = 10.0
"""Seconds for a clean end; more than a session takes to flush and close, even on a dead mount."""


class Stop:
    """Asks the main task to end on the first signal, and ends the process on the second one."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.number: int | None = None
        self.scope = trio.CancelScope()
        """What the first signal cancels, as long as there is no session to be closed."""
        self.serving = trio.Event()
        """Set once the main task watches `requested`, and closes the session itself."""
        self.outcome: tuple[str, int] | None = None
        """Why the end is asked for, and the exit code, where it is not a signal."""
        self.deliver: Callable[[int], bool] = lambda _: False
        """Takes signals that are for somebody else, and says whether it took one."""
        self.more: tuple[signal.Signals, ...] = ()
        """Signals that are only for `deliver`."""

    def end(self, reason: str, exit_code: int) -> None:
        """Ask the main task to end, without a signal."""
        self.outcome = self.outcome or (reason, exit_code)
        self._request()
        self._leave_in_time()

    @property
    def exit_code(self) -> int:
        """As the shell would tell it: 130 for Ctrl-C, 143 for SIGTERM; 0 without a signal."""
        if self.number:
            return 128 + self.number
        return self.outcome[1] if self.outcome else 0

    @property
    def name(self) -> str:
        """The signal's name; "" without one."""
        return signal.Signals(self.number).name if self.number else ""

    async def watch(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for signals until cancelled; `started` when they are caught."""
        ending = _wanted()
        caught = {*ending, *self.more}
        if self.more:  # the command is to ignore what whoever started muxfs wanted ignored
            caught = {number for number in caught if signal.getsignal(number) != signal.SIG_IGN}
        with trio.open_signal_receiver(*caught) as signals:
            task_status.started()
            async for number in signals:
                if self.deliver(number) or number not in ending:
                    continue
                if self.requested.is_set():
                    leave(128 + number)
                self.number = number
                self._request()
                self._leave_in_time()

    def _request(self) -> None:
        self.requested.set()
        if not self.serving.is_set():
            self.scope.cancel()

    def _leave_in_time(self) -> None:
        # not a deadline of trio, which needs the event loop
        signal.signal(signal.SIGALRM, lambda *_: leave(self.exit_code))
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _wanted() -> list[signal.Signals]:
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to live on
        wanted.append(signal.SIGHUP)
    return wanted
