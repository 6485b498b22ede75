"""Exceptions, their exit codes, and text that is safe to print."""

from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.core.wire import Code
from muxfs.errors import (
    AlreadyRunning,
    MuxfsError,
    SessionError,
    StreamEnded,
    StreamRefused,
    StreamReset,
    printable,
)

HOSTILE = "clear\x1b[2J bell\x07 line\nfeed \u202eright to left\u202c \x9bcsi"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (Code.PROTOCOL, os.EX_PROTOCOL),
        (Code.VERSION, os.EX_PROTOCOL),
        (Code.STORAGE, os.EX_IOERR),
        (Code.SUPERSEDED, os.EX_TEMPFAIL),
        (Code.SHUTDOWN, os.EX_UNAVAILABLE),
    ],
)
def test_a_session_error_has_an_exit_code(code: Code, exit_code: int) -> None:
    error = SessionError(code, "because")
    assert (error.code, error.exit_code, str(error)) == (code, exit_code, "because")
    assert isinstance(error, MuxfsError)
    assert AlreadyRunning.exit_code == os.EX_TEMPFAIL


@pytest.mark.parametrize("kind", [StreamRefused, StreamReset])
@pytest.mark.parametrize(
    ("code", "number"),
    [
        (Code.REFUSED, errno.ECONNREFUSED),
        (Code.UNREACHABLE, errno.EHOSTUNREACH),
        (Code.TIMEOUT, errno.ETIMEDOUT),
        (Code.RESOLVE, errno.EHOSTUNREACH),
        (Code.PROHIBITED, errno.EACCES),
        (Code.LIMIT, errno.EAGAIN),
        (Code.BROKEN, errno.ECONNRESET),
        (Code.PEER_DEAD, errno.ECONNRESET),
    ],
)
def test_a_streams_end_is_an_os_error(kind: type[StreamEnded], code: Code, number: int) -> None:
    error = kind(code, "nobody home")
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (number, "nobody home")
    assert (error.code, error.reason) == (code, "nobody home")
    assert str(error) == f"[Errno {number}] nobody home"


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_words(code: Code) -> None:
    assert StreamReset(code).strerror == code.name.lower().replace("_", " ")
    assert StreamReset(code).reason == ""


@pytest.mark.parametrize("error", [StreamReset(Code.BROKEN, "x"), SessionError(Code.VERSION, "y")])
def test_errors_can_be_copied(error: StreamEnded | SessionError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert (other.code, str(other)) == (error.code, str(error))


def test_texts_of_the_far_side_cannot_command_a_terminal() -> None:
    for text in (
        printable(HOSTILE),
        str(SessionError(Code.PROTOCOL, HOSTILE)),
        str(StreamRefused(Code.REFUSED, HOSTILE)),
    ):
        assert text.isprintable()
        assert "\\x1b[2J" in text


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text().filter(str.isprintable))
def test_printable_leaves_the_rest_alone(text: str) -> None:
    assert printable(text) == text
