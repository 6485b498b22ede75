"""What an end of this host answers, as results and failures of commands. Trio-free."""

from __future__ import annotations

import os

from muxfs.cli.failures import IO_ERROR, NO_PERMISSION, PROTOCOL, UNAVAILABLE, USAGE, Failure
from muxfs.cli.patience import Answers, Unanswered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muxfs.control.client import End
    from muxfs.control.protocol import Message

_EXIT_CODES = {
    "PROHIBITED": NO_PERMISSION,
    "USAGE": USAGE,
    "BROKEN": IO_ERROR,
    "PROTOCOL": PROTOCOL,
}


def real_path(path: str, *roles: str) -> str:
    """Return the real path of a tunnel, by which its ends on this host are known.

    Where its filesystem does not answer: the path itself, if an end of these roles has that.
    Raises Unanswered.
    """
    from muxfs.control import client  # noqa: PLC0415  (start-up time)

    try:
        return Answers().of(path, lambda: os.path.realpath(path))
    except Unanswered:
        for role in roles:
            for end in client.find(path, role):
                end.close()
                return path
        raise


def check_version(end: End) -> None:
    """Refuse an end that does not understand our requests. Raises Failure."""
    if not end.speaks_this:
        raise Failure(f"muxfs {end.role} (pid {end.pid}) is of another version", PROTOCOL)


def lost(end: End) -> Failure:
    """Return what to say when the end closed the connection."""
    words = f"muxfs {end.role} (pid {end.pid}) ended, or was killed; the connection is broken"
    return Failure(words, IO_ERROR)


def check(answer: Message) -> None:
    """Raise Failure if the answer is a refusal."""
    if not answer.get("ok"):
        code = _EXIT_CODES.get(str(answer.get("code")), UNAVAILABLE)
        raise Failure(str(answer.get("error")), code)


def ask(end: End, request: Message) -> Message:
    """Send a request and return its answer. Raises Failure."""
    from muxfs.control import client, protocol  # noqa: PLC0415  (start-up time)

    check_version(end)
    try:
        end.send(request)
        end.wait_long()
        answer = end.receive()
    except (client.Gone, protocol.Malformed):
        raise lost(end) from None
    finally:
        end.close()
    check(answer)
    return answer
