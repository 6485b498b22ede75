"""When to doubt what the storage shows of the peer's file, and which view of it shows more.

A client's cache may be stale for ever, and a stale view looks like a silent peer. So
where something is overdue, others are asked: the same places are read in other ways.
Rule 1: only content is proof: a later beat, a later incarnation, the batch that comes next.
Rule 2: doubting is cheap: while nothing comes of it, each pause is twice the last one.
"""

from __future__ import annotations

from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.conversation import Conversation
from muxfs.core.inbound import ReceiveRing
from muxfs.core.link import Link, newest_status, proven_birth
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks, statuses
from muxfs.core.wire import BatchProof, Incarnation, Role

ROUND_TRIPS: Final = 4
"""Round trips that what the peer says it wrote may take to be seen."""

LEAST_PATIENCE: Final = 0.25
ACK_PATIENCE: Final = 2.0
"""Seconds without an ack: a peer that has been idle for long looks once a second."""

BEATS: Final = 1.5
"""Heartbeats without any sign."""

SILENCE_PATIENCE: Final = 1.0
"""Seconds more, so that the first pauses after it are not mere moments."""

MOST_PAUSE: Final = 60.0
FRUITLESS_BEATS: Final = 3
"""Beats of the peer after writing again, without an ack: it lives, but does not see us."""


@attrs.frozen
class Place:
    """Where the next batch of the peer will stand."""

    epoch: int
    position: int
    offset: int
    length: int
    most: int
    """Bytes that a batch may have there."""
    proof: BatchProof = wire.by_checksum

    @classmethod
    def next_in(cls, ring: ReceiveRing) -> Place:
        """Where the ring is read next, and how much of it."""
        room = ring.capacity - ring.position % ring.capacity
        return cls(ring.epoch, ring.position, *ring.extent, min(ring.max_batch, room), ring.proof)


@attrs.frozen
class Standing:
    """What one side knows of the peer, and what it waits for. Seconds and bytes."""

    established: bool
    incarnation: Incarnation | None
    beat: int
    """The peer's, as last seen; 0: none."""
    silence: float
    heartbeat: float
    """The longer of the two."""
    round_trip: float
    place: Place | None
    behind: bool
    """Whether the peer says that it wrote more than was seen."""
    acknowledged: int
    awaits_ack: bool
    rewritten: int
    """Batches that were written again so far."""
    writer: Role = Role.LISTEN
    """The peer's role."""
    blocks: Blocks = CHECKSUM_BLOCKS

    @classmethod
    def of(cls, link: Link, conversation: Conversation | None, rewritten: int) -> Standing:
        """Gather it."""
        status, talk = link.status, conversation if link.established else None
        ring = talk.inbound if talk is not None else None
        echoed = status is not None and status.echo == link.own.incarnation
        written = status.write_position if status is not None and echoed else 0
        return cls(
            established=talk is not None,
            incarnation=link.peer.incarnation if link.peer is not None else None,
            beat=status.beat if status is not None else 0,
            silence=link.silence,
            heartbeat=link.heartbeat,
            round_trip=talk.pacer.round_trip if talk is not None else 0.0,
            place=Place.next_in(ring) if ring is not None else None,
            behind=ring is not None and written > ring.position,
            acknowledged=talk.out.acknowledged if talk is not None else 0,
            awaits_ack=talk is not None and talk.out.awaits_ack,
            rewritten=rewritten,
            writer=link.role.peer,
            blocks=link.blocks,
        )

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Which parts of the peer's file tell whether there is more: (offset, length)."""
        head = (0, wire.HEAD_LENGTH)
        place = self.place
        return [head] if place is None else [head, (place.offset, place.length)]

    def see(self, parts: list[bytes]) -> Sight:
        """Judge what was read at `extents`."""
        head = parts[0]
        birth = proven_birth(head, self.writer, self.blocks)
        incarnation = birth.incarnation if birth is not None else None
        found = statuses(self.blocks, head, self.writer)
        status = newest_status(found, incarnation) if incarnation is not None else None
        batch = _batch(self.place, parts[1]) if self.place is not None else 0
        return Sight(bool(head), incarnation, status.beat if status is not None else 0, batch)


@attrs.frozen
class Sight:
    """What a view of the peer's file shows."""

    present: bool
    """Whether there is a file that is not empty."""
    incarnation: Incarnation | None
    beat: int
    batch: int
    """0: nothing stands where the next batch will; 1: its header; 2: all of it."""

    def shows_more_than(self, other: Sight) -> bool:
        """Whether the other view of the same places, read later, must be stale."""
        mine, its = self.incarnation, other.incarnation
        if mine != its:
            return mine is not None and (its is None or mine > its)
        return self.beat > other.beat or self.batch > other.batch


def _batch(place: Place, data: bytes) -> int:
    header = wire.decode_batch_header(memoryview(data), place.epoch, place.position)
    if header is None or header.sealed != place.proof.sealed or header.length > place.most:
        return 0
    whole = memoryview(data)[: header.length]
    complete = len(whole) == header.length
    return 2 if complete and place.proof.check(header, whole) is not None else 1


@attrs.define
class Doubt:
    """Decides when it is time to ask others, and when to write in a surer way."""

    _waits_for: tuple[object, ...] = ()
    _pause: float = 0.0
    _at: float = 0.0
    _unheard: tuple[object, ...] = ()
    _rewritten: int = 0
    _last_beat: int = 0
    _fruitless: int = 0

    def reading_due(self, standing: Standing, now: float) -> bool:
        """Whether something is overdue that another way of reading may show."""
        overdue = _overdue(standing)
        if overdue is None:
            self._waits_for = ()
            return False
        waits_for, patience = overdue
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            self._pause = patience
            self._at = now + patience
        return now >= self._at

    def asked(self, now: float) -> None:
        """Note that others were asked in vain."""
        self._pause = min(MOST_PAUSE, 2 * max(self._pause, LEAST_PATIENCE))
        self._at = now + self._pause

    def writing_due(self, standing: Standing) -> bool:
        """Whether the peer lives and writing again did not help: it cannot see what is written."""
        hears = standing.established and not standing.awaits_ack
        unheard = (standing.incarnation, standing.established, standing.acknowledged)
        if hears or standing.incarnation is None or unheard != self._unheard:
            self._unheard = unheard
            self.strengthened(standing)
        if standing.beat > self._last_beat:
            # a side that waits to be seen writes its status with each beat
            wrote_again = not standing.established or standing.rewritten > self._rewritten
            self._fruitless += wrote_again
            self._last_beat = standing.beat
        return self._fruitless >= FRUITLESS_BEATS

    def strengthened(self, standing: Standing) -> None:
        """Count anew."""
        self._fruitless = 0
        self._rewritten = standing.rewritten
        self._last_beat = standing.beat


def _overdue(standing: Standing) -> tuple[tuple[object, ...], float] | None:
    """Return what is waited for, whatever it is, and how long that is normal (s)."""
    known = (standing.incarnation, standing.beat)
    if not standing.established:
        return ("meeting", *known), BEATS * standing.heartbeat
    if standing.behind and standing.place is not None:
        patience = max(LEAST_PATIENCE, ROUND_TRIPS * standing.round_trip)
        return ("batch", standing.place.position), patience
    if standing.silence > BEATS * standing.heartbeat:
        return ("beat", *known), SILENCE_PATIENCE
    if standing.awaits_ack:
        patience = max(ACK_PATIENCE, ROUND_TRIPS * standing.round_trip)
        return ("ack", standing.acknowledged), patience
    return None
