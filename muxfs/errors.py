"""Exceptions of muxfs, their exit codes, and text that is safe to print.

Rule: no import of trio here, since `muxfs --help` and `muxfs status` do without.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from muxfs.core.wire import Code

_EXIT_CODES: Final = {
    Code.PROTOCOL: 76,  # EX_PROTOCOL
    Code.VERSION: 76,
    Code.STORAGE: 74,  # EX_IOERR
    Code.SUPERSEDED: 75,  # EX_TEMPFAIL
}

_ERRNOS: Final = {
    Code.REFUSED: errno.ECONNREFUSED,
    Code.UNREACHABLE: errno.EHOSTUNREACH,
    Code.TIMEOUT: errno.ETIMEDOUT,
    Code.RESOLVE: errno.EHOSTUNREACH,
    Code.PROHIBITED: errno.EACCES,
    Code.LIMIT: errno.EAGAIN,
}


def printable(text: str) -> str:
    """Escape what a terminal would interpret: texts of the far side may be hostile."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class MuxfsError(Exception):
    """Base of the errors that end a session or a command; str() is one plain sentence."""

    exit_code = os.EX_SOFTWARE


class SessionError(MuxfsError):
    """The session ended for good: `code` says why."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, printable(reason))
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, os.EX_UNAVAILABLE)

    def __str__(self) -> str:
        return str(self.args[1])


class AlreadyRunning(MuxfsError):
    """Another process of the same role is alive on this tunnel."""

    exit_code = os.EX_TEMPFAIL


class UnusableKey(MuxfsError):
    """A key file cannot be used, or what a key needs is not installed."""

    def __init__(self, message: str, exit_code: int = os.EX_NOPERM) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return printable(str(self.args[0]))


class StreamEnded(OSError):
    """A stream ended other than cleanly; `code` and `reason` say why, as the far side told it."""

    def __init__(self, code: Code, reason: str = "") -> None:
        self.code = code
        self.reason = printable(reason)
        text = self.reason or code.name.lower().replace("_", " ")
        super().__init__(_ERRNOS.get(code, errno.ECONNRESET), text)


def ending_of(broken: BaseException | None) -> StreamEnded | None:
    """Return what a BrokenResourceError of a stream came from, if that is known."""
    cause = broken.__cause__ if broken is not None else None
    return cause if isinstance(cause, StreamEnded) else None


class StreamRefused(StreamEnded):
    """The far side did not open the stream."""


class StreamReset(StreamEnded):
    """The far side, or the end of the session, broke the stream off."""
