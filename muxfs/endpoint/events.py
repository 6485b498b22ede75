"""What an end tells its owner: what forwards tell, and what becomes of its sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from muxfs.forwards import events
from muxfs.info import Change


@attrs.frozen
class SessionChange:
    """A session's state has changed."""

    session: int
    change: Change


@attrs.frozen
class SessionMoved:
    """Another process uses this session's mailbox: the end goes on with another session."""

    session: int


@attrs.frozen
class SessionFailed:
    """A session of several could not be opened, or has ended for good; the others go on."""

    session: int
    reason: str


Event: TypeAlias = events.Event | SessionChange | SessionMoved | SessionFailed
Report: TypeAlias = Callable[[Event], None]
