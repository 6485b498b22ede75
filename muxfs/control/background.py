"""Starting an end that outlives the command that needs it, like ssh's ControlPersist.

Rule: the new process keeps nothing of ours: no descriptor, no terminal, no session, no
directory. `ssh host muxfs stdio ...` would not end as long as one of its pipes is open.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence

from muxfs.control import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

FIRST_LOOK = 0.005
LONGEST_LOOK = 0.05
"""Seconds between looks whether the new process serves its socket."""
LAST_WORDS = 4096
"""Bytes at the end of the log in which a failed start has its reason."""


class NotStarted(Exception):
    """The new process ended at once; `str()` is what it said, `exit_code` how it ended."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def find_or_start(
    tunnel: str, find: Callable[[], T | None], arguments: Sequence[str], patience: float
) -> T:
    """Return what `find` finds; if that is nothing, run `muxfs ARGUMENTS` until it does.

    Of several processes that do so for the tunnel with that real path at once, one starts
    it and the others wait. `patience`: seconds that the new process has until it is found.
    Raises NotStarted, place.Unsafe, OSError.
    """
    found = find()
    if found is not None:
        return found
    path = place.make_directory()
    name = place.stem(tunnel, "listen", 0)
    with place.opened(path) as directory:
        lock = place.lock(directory, f"{name}.start", wait=True)
        try:
            found = find()  # another one may have started it while this one waited
            if found is not None:
                return found
            child = _start(directory, f"{name}.log", arguments)
            return _await(child, find, os.path.join(path, f"{name}.log"), patience)
        finally:
            os.close(lock)


def _start(directory: int, log_name: str, arguments: Sequence[str]) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(log_name, flags, place.MODE, dir_fd=directory)
    try:
        child = os.fork()
        if not child:
            _become(log, arguments)
        return child
    finally:
        os.close(log)


def _await(child: int, find: Callable[[], T | None], log: str, patience: float) -> T:
    deadline = time.monotonic() + patience
    nap = FIRST_LOOK
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        found = find()
        if found is not None:
            return found
        if ended:
            raise NotStarted(_last_words(log), os.waitstatus_to_exitcode(status))
        if time.monotonic() > deadline:
            words = f"the muxfs in the background (pid {child}) does not answer; its log is {log}"
            raise NotStarted(words, os.EX_UNAVAILABLE)
        time.sleep(nap)
        nap = min(2 * nap, LONGEST_LOOK)


def _become(log: int, arguments: Sequence[str]) -> NoReturn:
    """Turn this process, just forked, into `muxfs ARGUMENTS`, cut off from everything."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)  # what our own parent left open; Python closes its own at exec
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        if home == os.getcwd():  # a checkout that is found only from within
            paths = [home, os.environ.get("PYTHONPATH", "")]
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.chdir("/")
        command = [sys.executable, "-m", "muxfs", *arguments]
        os.execv(sys.executable, command)  # noqa: S606  (ourselves)
    finally:
        os._exit(os.EX_OSERR)


def _last_words(log: str) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_WORDS))
        lines = file.read(LAST_WORDS).decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("muxfs: ") if lines else "it said nothing"
