"""The process of srun, sbatch or salloc, seen from beside it on the same host."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

import attrs

_JOB: Final = b"SLURM_JOB_ID="
LOOK: Final = 1.0
"""Seconds between looks whether it lives, where the kernel cannot tell at once."""


@attrs.define
class Submitter:
    """A process that may end at any time; its number is not mixed up with a later one's."""

    pid: int
    _handle: int = -1

    @classmethod
    def find(cls, pid: int) -> Submitter | None:
        """Return the process; None if it has ended."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except ProcessLookupError:
            return None
        except OSError:  # Linux before 5.3
            return cls(pid) if os.path.exists(f"/proc/{pid}") else None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most so long; whether it has ended."""
        if self._handle >= 0:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(None if seconds is None else seconds * 1000))
        deadline = None if seconds is None else time.monotonic() + seconds
        while os.path.exists(f"/proc/{self.pid}"):
            left = LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, LOOK))
        return True

    def at_end(self, act: Callable[[], None]) -> None:
        """Have `act` called by a thread when it ends."""

        def watch() -> None:
            self.wait()
            act()

        threading.Thread(target=watch, daemon=True).start()

    def job_of_children(self) -> int | None:
        """Return the job that a child of it was started in, as salloc starts its command."""
        for pid in _children(self.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                for word in file.read().split(b"\0"):
                    if word.startswith(_JOB) and word[len(_JOB) :].isdigit():
                        return int(word[len(_JOB) :])
        return None


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            # the name in parentheses may hold blanks; state and parent follow it
            if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(name))
    return found
