"""What a session tells of itself: peer, statistics, and changes of its state."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from muxfs.core.engine import State as SessionState
from muxfs.core.wire import Birth, Code, ItemType
from muxfs.errors import printable
from muxfs.process import pid_of

__all__ = [
    "AccessChanged",
    "Change",
    "Established",
    "Lost",
    "PeerInfo",
    "Resumed",
    "SessionState",
    "SessionStats",
    "Silent",
    "StorageRecovered",
    "StorageTrouble",
    "Stranger",
]


@attrs.frozen
class PeerInfo:
    """Who is at the other end, in words that are safe to print."""

    host: str
    pid: int | None
    user: str
    started: str
    software: str
    label: str
    generation: int

    @classmethod
    def of(cls, birth: Birth) -> PeerInfo:
        """Read it from a birth block."""
        return cls(
            host=printable(birth.text(ItemType.HOST)),
            pid=pid_of(birth.text(ItemType.PROCESS)),
            user=printable(birth.text(ItemType.USER)),
            started=printable(birth.text(ItemType.STARTED)),
            software=printable(birth.text(ItemType.SOFTWARE)),
            label=printable(birth.text(ItemType.LABEL)),
            generation=birth.incarnation.generation,
        )


@attrs.frozen
class SessionStats:
    """Counters of one side since its start; also the report in its mailbox.

    Bytes are those of the rings (frames and headers included); times are seconds.
    """

    state: str
    streams: int
    opened: int
    bytes_written: int
    bytes_read: int
    in_flight: int
    round_trip: float | None
    operations: int
    operations_per_second: float
    torn: int
    stale: int
    rewritten: int
    access: str = ""
    """How the files are read and written, such as `direct+dsync`."""
    escalations: int = 0
    """How often that was changed, because it was proven wrong."""


@attrs.frozen
class Established:
    """The session stands."""

    peer: PeerInfo


@attrs.frozen
class Lost:
    """The session with that peer is over and its streams were reset; another may follow."""

    code: Code
    reason: str


@attrs.frozen
class Silent:
    """The peer gave no sign for so many seconds; streams wait."""

    seconds: float


@attrs.frozen
class Resumed:
    """A silent peer gave a sign again."""


@attrs.frozen
class Stranger:
    """Somebody lives at the other side who has another key, or none; this side goes on waiting."""

    reason: str


@attrs.frozen
class StorageTrouble:
    """Writing or reading the mailboxes fails; it is tried again."""

    error: OSError


@attrs.frozen
class StorageRecovered:
    """The mailboxes work again."""


@attrs.frozen
class AccessChanged:
    """The files are read or written in another way from now on; the last one was proven wrong."""

    before: str
    after: str


Change: TypeAlias = (
    Established
    | Lost
    | Silent
    | Resumed
    | Stranger
    | StorageTrouble
    | StorageRecovered
    | AccessChanged
)
