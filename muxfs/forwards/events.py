"""What forwards tell their owner: values, for logs of people and programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from muxfs.core.wire import Code


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


Event: TypeAlias = Opened | Ended | Refused | Overloaded
Report: TypeAlias = Callable[[Event], None]
