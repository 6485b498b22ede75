"""Whether file locks work there. muxfs needs none; what people run beside it may.

A lock call can hang for ever (NFSv3 without a lock manager), so each has a time limit.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import math
import queue
import subprocess
import sys
import threading
from typing import Final

LIMIT: Final = 10.0
"""Seconds for a lock call that is not meant to wait."""
LIMIT_OF_PROCESS: Final = 15.0
"""The same with the start of an interpreter, which may lie on a network filesystem itself."""
_REFUSED: Final = frozenset({errno.EAGAIN, errno.EACCES})

# The second process: no site, no imports but what it needs, since it starts on a network
# filesystem perhaps.
_TRY: Final = """\
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


class Answer(enum.Enum):
    """What a lock call that does not wait came to."""

    GRANTED = "granted"
    REFUSED = "refused"  # somebody else holds it
    FAILED = "failed"  # there are no locks
    SILENT = "silent"  # no answer in time


def try_lock(descriptor: int, limit: float = math.inf) -> Answer:
    """Try to lock the file of a writable descriptor; `unlock` undoes it.

    SILENT after `limit` seconds, if that is less than LIMIT.
    """
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            answers.put(_answer(error.errno or 0))
        else:
            answers.put(Answer.GRANTED)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return answers.get(timeout=min(limit, LIMIT))
    except queue.Empty:
        return Answer.SILENT


def unlock(descriptor: int) -> None:
    """Give a lock back that was granted."""
    fcntl.lockf(descriptor, fcntl.LOCK_UN)


def try_from_another_process(path: str) -> Answer:
    """Try to lock the file from a second process of this host."""
    command = [sys.executable, "-I", "-S", "-c", _TRY, path]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  (this interpreter)
    except OSError:
        return Answer.FAILED
    try:
        text, _ = process.communicate(timeout=LIMIT_OF_PROCESS)
    except subprocess.TimeoutExpired:
        process.kill()
        with (
            process.stdout or contextlib.nullcontext(),
            contextlib.suppress(subprocess.TimeoutExpired),
        ):
            process.wait(LIMIT)  # not longer: it may hang in the kernel
        return Answer.SILENT
    return _answer(int(text)) if text.strip().isdigit() else Answer.FAILED


def _answer(error: int) -> Answer:
    if not error:
        return Answer.GRANTED
    return Answer.REFUSED if error in _REFUSED else Answer.FAILED
