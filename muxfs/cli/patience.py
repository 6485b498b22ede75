"""Work that may hang on a dead file server, in commands that have no event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


def interruptibly(job: Callable[[], int]) -> int:
    """Do it in a thread, so that Ctrl-C is heard: no system call on a dead mount returns for it."""
    outcome: Future[int] = Future()

    def run() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:  # noqa: BLE001  (raised again by whoever waits)
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()
