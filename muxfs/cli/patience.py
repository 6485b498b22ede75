"""Calls to filesystems whose server may be dead, in commands that have no event loop.

Rule: no system call on a dead mount returns, not even for Ctrl-C. So each is made in a thread,
which is left alone if it hangs; `leave` ends the process all the same.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from muxfs.cli.failures import IO_ERROR, UNAVAILABLE, Failure

TYPE_CHECKING = False  # no typing: `stdio` starts for each connection
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

STILL = 5.0
"""Seconds that a look may take until its file server counts as dead."""
NOTICE = 2.0
"""Seconds of waiting until it is told what for."""
COMPANY = 0.05
"""Seconds without any answer until one more thread helps: what hangs is not to delay the rest."""


class Unanswered(Failure):
    """A filesystem does not answer."""

    def __init__(self, *paths: str) -> None:
        super().__init__(_sentence(paths), IO_ERROR)


def _sentence(paths: Sequence[str]) -> str:
    # imported only now: `stdio` starts for each connection
    from muxfs.errors import printable  # noqa: PLC0415
    from muxfs.storage.choices import Kind  # noqa: PLC0415
    from muxfs.storage.filesystem import guess_filesystem  # noqa: PLC0415

    names = printable(", ".join(paths))
    filesystem = guess_filesystem(paths[0])
    where = f"{names} ({filesystem.describe()})" if filesystem.kind is Kind.NETWORK else names
    return (
        f"the filesystem of {where} does not answer: its file server hangs or is gone; try again "
        "when it is back (tunnels wait for it, and then go on), or tell those who run it"
    )


class Answers:
    """Asks filesystems, and waits for no answer longer than its limit.

    Who looks again and again leaves no more threads behind: what hangs is not asked once more.
    """

    def __init__(self, limit: float = STILL) -> None:
        self._limit = limit
        self._hanging: dict[str, _Call] = {}
        self._told = False

    def of(self, path: str, call: Callable[[], T]) -> T:
        """Return what a call returns. Raises Unanswered, and what it raises."""
        answer = self.of_all({path: call})[path]
        if isinstance(answer, Unanswered):
            raise answer
        return answer

    def of_all(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T | Unanswered]:
        """Return what each call returns, by the paths that they are about.

        Raises what they raise.
        """
        asked = {path: _Call(path, call) for path, call in calls.items()}
        left = [call for call in asked.values() if not self._hangs(call.path)]
        crew = _Crew(left)
        while left:
            moved = crew.wait(left)
            pending = [call for call in left if not call.over]
            left = [call for call in pending if not self._gives_up(call)]
            crew.lost += len(pending) - len(left)
            if not moved:
                crew.help()
        return {path: call.answer() for path, call in asked.items()}

    def _hangs(self, path: str) -> bool:
        return path in self._hanging and not self._hanging[path].over

    def _gives_up(self, call: _Call) -> bool:
        if call.begun:
            call.waited += COMPANY  # by turns, not by the clock: this process may be stopped
        if call.waited >= self._limit:
            self._hanging[call.path] = call
            return True
        if call.waited >= NOTICE and not self._told:
            self._told = True
            _tell(f"  waiting for an answer from {call.path}")
        return False


def _tell(words: str) -> None:
    from muxfs.errors import printable  # noqa: PLC0415  (`stdio` starts for each connection)

    print(printable(words), file=sys.stderr, flush=True)


class _Call:
    def __init__(self, path: str, call: Callable[[], Any]) -> None:
        self.path = path
        self.begun = False
        self.over = False
        self.waited = 0.0
        """Seconds that it has taken."""
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None

    def make(self) -> None:
        self.begun = True
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  (raised again by whoever waits)
            self._error = error
        self.over = True

    def answer(self) -> Any:
        if not self.over:
            return Unanswered(self.path)
        if self._error is not None:
            raise self._error
        return self._result


class _Crew:
    """Threads that make calls, in order: no more than it takes, to be gentle to the server."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self.lost = 0
        """Threads that hang."""
        self._threads = 0
        self._todo = deque(calls)
        self._news = threading.Condition()
        self._ended = 0
        self.help()

    def help(self) -> None:
        """Begin one more thread, if there is something to do. Raises Failure if none is left."""
        if not self._todo:
            return
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError as error:
            if self._threads == self.lost:
                raise Failure(f"cannot look: {error} (see ulimit -u)", UNAVAILABLE) from error
        else:
            self._threads += 1

    def wait(self, calls: Sequence[_Call]) -> bool:
        """Wait for the end of all, but not for long if none ends; whether one did."""
        with self._news:
            before = self._ended
            self._news.wait_for(lambda: all(call.over for call in calls), COMPANY)
            return self._ended != before

    def _work(self) -> None:
        while True:
            try:
                call = self._todo.popleft()
            except IndexError:
                return
            call.make()
            with self._news:
                self._ended += 1
                self._news.notify()
