"""Who the peer is: generations, echoes and liveness (protocol.md, sections 7 and 10).

Rule 1: all that decides whether two incarnations talk to each other stands here.
Rule 2: nothing here knows of batches; positions are only carried.

    WAITING --status echoes us--> ESTABLISHED --new incarnation, death, CLOSED--> WAITING
    any --the peer echoes a later one of our role--> born again, or superseded
"""

from __future__ import annotations

import enum

import attrs

from muxfs.core import wire
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks, Strangeness, Stranger, clear_birth, statuses
from muxfs.core.wire import (
    Birth,
    Incarnation,
    Incompatible,
    IncompatibleVersion,
    ProtocolViolation,
    Role,
    Status,
)


class Meeting(enum.Enum):
    """What an observation of the peer's head means for the session."""

    NEW_PEER = "new peer"  # a new incarnation: start a new epoch
    ESTABLISHED = "established"  # it echoes us
    CLASH = "clash"  # somebody else used our generation: be born again
    SUPERSEDED = "superseded"  # somebody else of our role is at work
    STRANGER = "stranger"  # somebody lives there who cannot be talked to


@attrs.frozen
class PreviousLife:
    """What the own file says of the process that wrote it before."""

    birth: Birth
    status: Status | None

    @property
    def ended(self) -> bool:
        """Whether it said itself that it ended."""
        return self.status is not None and self.status.closed

    @property
    def signs(self) -> tuple[int, int]:
        """What changes while it lives."""
        return (self.birth.incarnation.generation, self.status.beat if self.status else 0)


def newest_status(found: list[Status], incarnation: Incarnation) -> Status | None:
    """Return the newest status of that incarnation."""
    own = [status for status in found if status.incarnation == incarnation]
    return own[-1] if own else None


def proven_birth(head: bytes, writer: Role, blocks: Blocks) -> Birth | None:
    """Return the birth block that can be believed."""
    try:
        return blocks.decode_birth(head[: wire.PAGE], writer)
    except (ProtocolViolation, Incompatible):
        return None


def previous_life(
    head: bytes, writer: Role, blocks: Blocks = CHECKSUM_BLOCKS
) -> PreviousLife | None:
    """Read a mailbox's head as somebody who looks on; damage counts as nothing.

    Of one that another key proves, or one where there is none, what everybody can read.
    """
    birth = proven_birth(head, writer, blocks) or clear_birth(head[: wire.PAGE])
    if birth is None:
        return None
    found = statuses(blocks, head, writer) or wire.decode_statuses(head, wire.clear_status)
    return PreviousLife(birth, newest_status(found, birth.incarnation))


def first_generation(
    own_head: bytes, peer_head: bytes, role: Role, blocks: Blocks = CHECKSUM_BLOCKS
) -> int:
    """Return the generation to start with: higher than any that was seen of this role."""
    birth = proven_birth(own_head, role, blocks)
    own = birth.incarnation.generation if birth else 0
    echoes = (s.echo.generation for s in statuses(blocks, peer_head, role.peer) if s.echo)
    return max(own, *(echo for echo in echoes if echo < wire.MAX_SEQUENCE), 0) + 1


@attrs.define
class Link:
    """One side's knowledge of the peer."""

    own: Birth
    blocks: Blocks = CHECKSUM_BLOCKS
    peer: Birth | None = None
    status: Status | None = None
    rival: Incarnation | None = None
    """Who used our generation, or a later one: what the last clash was with."""
    stranger: Stranger | None = None
    """Who lives at the other side and cannot be talked to, as found last."""
    established: bool = False
    silence: float = 0.0
    heartbeat: float = attrs.field(init=False)
    """The longer of the two heartbeats, in seconds."""
    peer_timeout: float = attrs.field(init=False)
    """Seconds of silence after which the peer is dead: the smaller one of the two."""
    _was_established: bool = False
    _head: bytes = b""
    _read_at: float | None = None
    _looked: bool = False
    _strange_signs: tuple[bytes, int] | None = None
    _told: set[Strangeness] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._agree_on_times()

    def _agree_on_times(self) -> None:
        births = [birth for birth in (self.own, self.peer) if birth is not None]
        self.heartbeat = max(birth.heartbeat for birth in births) / 1000
        timeouts = [birth.peer_timeout / 1000 for birth in births if birth.peer_timeout]
        least = wire.LEAST_BEATS * self.heartbeat
        self.peer_timeout = max(least, min(timeouts, default=float("inf")))

    @property
    def role(self) -> Role:
        """The own role."""
        return self.own.role

    @property
    def epoch(self) -> int:
        """The current pair's epoch; the peer must be known."""
        if self.peer is None:
            raise RuntimeError("no epoch without a peer")
        mine, its = self.own.incarnation, self.peer.incarnation
        return wire.epoch_of(*((mine, its) if self.role is Role.DIAL else (its, mine)))

    @property
    def silent(self) -> bool:
        """Whether an established peer gave no sign for three heartbeats."""
        return self.established and self.silence >= wire.LEAST_BEATS * self.heartbeat

    @property
    def dead(self) -> bool:
        """Whether an established peer gave no sign for the peer timeout."""
        return self.established and self.silence >= self.peer_timeout

    @property
    def vacant(self) -> bool:
        """Whether the peer's file is missing, or says that its writer ended."""
        life = previous_life(self._head, self.role.peer, self.blocks)
        return life is None or life.ended

    def observe(self, head: bytes, now: float) -> list[Meeting]:
        """Take what was read of the peer's head; old, torn or foreign content changes nothing.

        Raises ProtocolViolation or IncompatibleVersion for a valid but impossible birth block.
        """
        self._head = head
        self._count_silence(now)
        found = statuses(self.blocks, head, self.role.peer)
        meetings: list[Meeting] = []
        birth = self._decode_birth(head)
        if birth is None:
            meetings += self._watch_stranger(head)
        elif self._is_new(birth):
            self._adopt(birth)
            meetings.append(Meeting.NEW_PEER)
        self._looked = True
        status = newest_status(found, self.peer.incarnation) if self.peer else None
        if status is not None and (self.status is None or status.beat > self.status.beat):
            self.status = status
            self.silence = 0.0
            meetings += self._judge_echo(status.echo)
        elif not self.established:
            meetings += self._find_clash(found)
        return meetings

    def heard(self) -> None:
        """Note a sign of life: a batch."""
        self.silence = 0.0

    def born_again(self, own: Birth) -> None:
        """Take a new incarnation; the peer must echo it before anything goes on."""
        self.own = own
        self.lost()
        self._was_established = False

    def lost(self) -> None:
        """Note that the session with the known incarnation is over."""
        self.established = False
        self.silence = 0.0

    def _decode_birth(self, head: bytes) -> Birth | None:
        try:
            return self.blocks.decode_birth(head[: wire.PAGE], self.role.peer)
        except IncompatibleVersion:
            raise
        except Incompatible:
            return None

    def _watch_stranger(self, head: bytes) -> list[Meeting]:
        """Look for signs of life of somebody who cannot be talked to; tell each kind once.

        A file that somebody left behind shows none. What has only just appeared may be such
        a file, seen late: enough for a message, which is all that it is with a key.
        """
        stranger = self.blocks.stranger(head[: wire.PAGE])
        before, self._strange_signs = self._strange_signs, None
        if stranger is None:
            return []
        found = wire.decode_statuses(head, wire.clear_status)
        newest = found[-1] if found else None
        signs = self._strange_signs = (head[: wire.BIRTH_FIXED], newest.beat if newest else 0)
        if self.blocks.keyed:
            alive = self._looked and signs != before
        else:
            alive = before not in {None, signs} and not (newest and newest.closed)
        if not alive or stranger.why in self._told:
            return []
        self._told.add(stranger.why)
        self.stranger = stranger
        return [Meeting.STRANGER]

    def _is_new(self, birth: Birth) -> bool:
        if birth.role is not self.role.peer:
            raise ProtocolViolation("a mailbox that was written by the wrong role")
        # only upwards: pages may go back in time, and an epoch must not be entered twice
        return self.peer is None or birth.incarnation > self.peer.incarnation

    def _adopt(self, birth: Birth) -> None:
        self.peer = birth
        self._agree_on_times()
        self.status = None
        self._was_established = False
        self.lost()

    def _judge_echo(self, echo: Incarnation | None) -> list[Meeting]:
        if echo == self.own.incarnation:
            # established before, and lost since: the epoch must not be entered twice
            if self._was_established or (self.status and self.status.closed):
                return []
            self.established = self._was_established = True
            self._told.clear()
            return [Meeting.ESTABLISHED]
        if not self._is_rival(echo):
            return []
        self.rival = echo
        return [Meeting.SUPERSEDED if self._was_established else Meeting.CLASH]

    def _is_rival(self, echo: Incarnation | None) -> bool:
        mine = self.own.incarnation
        return echo is not None and echo >= mine and echo != mine

    def _find_clash(self, found: list[Status]) -> list[Meeting]:
        """Look for a later one of our role in any status that the file has.

        The known incarnation may be a dead one with the number of the living: that one
        is ignored, and so it could never tell us that it does not know us either.
        """
        for status in found:
            if self._is_rival(status.echo):
                self.rival = status.echo
                return [Meeting.CLASH]
        return []

    def _count_silence(self, now: float) -> None:
        """Count the time since the last read that worked, one heartbeat of it at the most.

        So a stall of our own reads is not taken for the peer's death (section 10).
        """
        if self._read_at is not None:
            self.silence += min(now - self._read_at, self.heartbeat)
        self._read_at = now
