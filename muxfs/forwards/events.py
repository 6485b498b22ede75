"""What forwards tell their owner: values, for logs of people and programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from muxfs.core.wire import Code

REFUSALS: Final = frozenset(
    {
        Code.REFUSED,
        Code.UNREACHABLE,
        Code.TIMEOUT,
        Code.RESOLVE,
        Code.PROHIBITED,
        Code.LIMIT,
        Code.INTERNAL,
    }
)
"""Codes of streams that the far side did not open; with others it was opened and broke off."""


@attrs.frozen
class Opened:
    """A connection began to be carried."""

    originator: str
    target: str


@attrs.frozen
class Ended:
    """A carried connection is over. Bytes as seen from this side's TCP connection."""

    originator: str
    target: str
    sent: int
    received: int
    clean: bool


@attrs.frozen
class Refused:
    """A connection was not carried, and has been reset."""

    originator: str
    target: str
    code: Code
    reason: str


@attrs.frozen
class Overloaded:
    """Connections are not accepted for the moment: this host is out of something."""

    reason: str


@attrs.frozen
class Listening:
    """The far side listens for this one, as this one had asked."""

    forward: str
    bound: str


@attrs.frozen
class NotListening:
    """The far side does not listen for this one; it is asked again later."""

    forward: str
    code: Code
    reason: str


@attrs.frozen
class Lent:
    """This side listens for the far side, as that one had asked."""

    place: str


@attrs.frozen
class Returned:
    """This side listens no more for the far side."""

    place: str


Event: TypeAlias = (
    Opened | Ended | Refused | Overloaded | Listening | NotListening | Lent | Returned
)
Report: TypeAlias = Callable[[Event], None]
