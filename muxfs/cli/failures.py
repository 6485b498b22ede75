"""How commands fail: one plain sentence, and an exit code.

Codes are those of sysexits(3), since scripts of batch systems know them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

TYPE_CHECKING = False  # typing takes 4 ms to import, and `stdio` starts for each connection
if TYPE_CHECKING:
    from typing import NoReturn

OK = 0
USAGE = 2
NO_INPUT = os.EX_NOINPUT
UNAVAILABLE = os.EX_UNAVAILABLE
SOFTWARE = os.EX_SOFTWARE
CANNOT_CREATE = os.EX_CANTCREAT
IO_ERROR = os.EX_IOERR
PROTOCOL = os.EX_PROTOCOL
NO_PERMISSION = os.EX_NOPERM

_BY_ERRNO = {
    errno.ENOENT: NO_INPUT,
    errno.ENOTDIR: NO_INPUT,
    errno.EACCES: NO_PERMISSION,
    errno.EPERM: NO_PERMISSION,
    errno.ELOOP: NO_PERMISSION,
    errno.EROFS: CANNOT_CREATE,
    errno.ENOSPC: CANNOT_CREATE,
    errno.EDQUOT: CANNOT_CREATE,
    errno.EFBIG: CANNOT_CREATE,
    errno.EADDRINUSE: UNAVAILABLE,
    errno.EADDRNOTAVAIL: UNAVAILABLE,
}


class Failure(Exception):
    """Ends a command. `str()` is one sentence for people, without the program's name."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: OSError) -> int:
    """Choose the exit code for an error of the system; I/O error where nothing fits better."""
    return _BY_ERRNO.get(error.errno or 0, IO_ERROR)


def leave(code: int) -> NoReturn:
    """End the process at once. A thread that is stuck in a dead mount can never be joined."""
    for stream in (sys.stdout, sys.stderr):
        # nobody reads any more, or this is a signal in the midst of a write
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if stream is not None:  # closed before we started
                stream.flush()
    os._exit(code)
