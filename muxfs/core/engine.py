"""One side of a session, sans-IO: what to write, what to read, and what came of it.

The caller owns the files, the clock and the random numbers:

* `next_write(now)` gives the next thing to write, also while earlier ones are under
  way; after one was made durable, or failed, the caller says `write_done(write, now)`
  or `write_failed(write, now)`, in any order. None of them overlap.
* `begin_poll(now)` and `next_read(now)` say which parts of the peer's file to read, also
  several at a time; what was read goes to `receive(read, data, now)`.
* `next_timeout()` is when `handle_timeout(now)` must be called at the latest.
* `take_events()` and `take_changes()` say what happened to the session and to streams.

Times are seconds of any monotonic clock. Nothing here blocks or fails, but for
the misuse that is documented at `open_stream`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.conversation import LEAST_DATA, Conversation
from muxfs.core.doubt import Standing
from muxfs.core.events import Born, Established, Event, Failed, Lost, Resumed, Silent, Strange
from muxfs.core.flight import Flight, Write
from muxfs.core.inbound import Piece, ReadTimes, ReceiveRing
from muxfs.core.link import Link, Meeting
from muxfs.core.multiplexer import Changes, Multiplexer, OutOfStreams
from muxfs.core.outbound import SendRing
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks
from muxfs.core.repair import Repair
from muxfs.core.stream import Ending, Stream
from muxfs.core.totals import Totals
from muxfs.core.wire import (
    Birth,
    Buffer,
    Code,
    Incarnation,
    Incompatible,
    IncompatibleVersion,
    Items,
    ItemType,
    ProtocolViolation,
    Role,
    Status,
)

HEAD_INTERVAL: Final = 2.5
"""Seconds between looks at an established peer's head."""

HEAD_INTERVAL_UNACKED: Final = 0.5
"""The same while acks are awaited: a peer that was killed and restarted is found soon."""

LONGEST_POLL: Final = 5.0
"""Seconds until a poll asks only for what is known to be there, so that it ends also in endless
bulk: each begins with the question whether the head is worth a look."""

BEAT_JITTER: Final = 0.1
"""Share of the heartbeat by which a status may be early."""

_NEVER: Final = float("inf")
_NUMBER_TAKEN: Final = Ending(Code.PEER_RESTARTED, "another process took this side's number")
_IDS_USED_UP: Final = Ending(Code.PEER_RESTARTED, "all stream numbers of the session are used up")


@attrs.frozen
class EngineConfig:
    """What a side declares of itself. Bytes, and milliseconds."""

    capacity: int = wire.DEFAULT_CAPACITY
    max_batch: int = wire.DEFAULT_MAX_BATCH
    max_streams: int = wire.DEFAULT_MAX_STREAMS
    initial_credit: int = wire.DEFAULT_INITIAL_CREDIT
    heartbeat: int = wire.DEFAULT_HEARTBEAT_MS
    peer_timeout: int = wire.DEFAULT_PEER_TIMEOUT_MS
    items: Items = ()


class State(enum.Enum):
    """What a session is doing."""

    WAITING = "waiting"
    ESTABLISHED = "established"
    SILENT = "silent"
    CLOSED = "closed"


@attrs.frozen(eq=False)
class Read:
    """Bytes of the peer's file to be read: its head, or a piece of its ring."""

    offset: int
    length: int
    began: float
    """When the engine gave it away."""

    ring: ReceiveRing | None = None
    piece: Piece | None = None
    marker: tuple[int, bytes] | None = None
    """File offset and bytes that tell that the batch has come which is looked for."""


@attrs.define
class Engine:
    """One side of a session; see the module's text."""

    role: Role
    config: EngineConfig
    random_bytes: Callable[[int], bytes]
    report: Callable[[], bytes]
    blocks: Blocks = CHECKSUM_BLOCKS
    link: Link = attrs.field(init=False)
    active_at: float = 0.0
    beat: int = 0
    speculate: bool = False
    """Whether a read is a round trip, so that others are worth asking for beside it."""

    _finished: Totals = attrs.field(factory=Totals)
    """Of conversations that are over."""

    _conversation: Conversation | None = None
    _flight: Flight = attrs.field(factory=Flight)
    _read_times: ReadTimes = attrs.field(factory=ReadTimes)
    _repair: Repair = attrs.field(factory=Repair)
    _events: list[Event] = attrs.field(factory=list)
    _changes: Changes = attrs.field(factory=Changes)
    _birth_wanted: bool = True
    _status_wanted: bool = True
    _next_beat: float = 0.0
    _head_at: float = 0.0
    _announced: bool = False
    """Whether the head is looked at since the kernel told of a change that is not in the ring."""

    _look_at_ring: bool = False
    _fresh_until: float = 0.0
    """When this poll is to ask for no more than is known."""

    _ending: Ending | None = None
    _ending_published: bool = False
    _closing_written: bool = False
    _was_silent: bool = False
    _notice_wanted: Ending | None = None
    _final_positions: tuple[int, int] = (0, 0)
    _parting: SendRing | None = None
    """What this side closed: the peer reads it up to the final position, so it must be there."""

    @classmethod
    def start(
        cls,
        role: Role,
        config: EngineConfig,
        generation: int,
        random_bytes: Callable[[int], bytes],
        now: float,
        report: Callable[[], bytes] = bytes,
        blocks: Blocks = CHECKSUM_BLOCKS,
    ) -> Engine:
        """Start a life with the generation that `link.first_generation` gave."""
        engine = cls(role, config, random_bytes, report, blocks, active_at=now)
        engine.link = Link(engine._birth(generation), blocks)
        return engine

    # State, for the caller and for people

    @property
    def state(self) -> State:
        """What the session is doing."""
        if self._ending is not None:
            return State.CLOSED
        if not self.link.established:
            return State.WAITING
        return State.SILENT if self.link.silent else State.ESTABLISHED

    @property
    def ending(self) -> Ending | None:
        """Why this side closed, once it did."""
        return self._ending

    @property
    def finished(self) -> bool:
        """Whether the closing status was written: nothing is left to do."""
        return self._closing_written

    @property
    def established(self) -> bool:
        """Whether the peer is there, or was a moment ago."""
        return self.link.established

    @property
    def own(self) -> Birth:
        """What this side says of itself in this life."""
        return self.link.own

    @property
    def peer(self) -> Birth | None:
        """What the peer says of itself, as last seen; also before the session stands."""
        return self.link.peer

    @property
    def vacant(self) -> bool:
        """Whether nobody is at the other side, as far as its file tells."""
        return self.link.vacant

    @property
    def silence(self) -> float:
        """Seconds without a sign of the peer's life."""
        return self.link.silence

    @property
    def standing(self) -> Standing:
        """What is known of the peer and waited for, for those who doubt what they see."""
        return Standing.of(self.link, self._conversation, self.rewritten)

    @property
    def next_beat(self) -> float:
        """When the next status is due at the latest."""
        return self._next_beat

    @property
    def flushed(self) -> bool:
        """Whether all that streams have queued was written and acknowledged."""
        return self._conversation is None or self._conversation.flushed

    @property
    def unsent(self) -> int:
        """Bytes that streams have queued, and bytes that are not acknowledged."""
        return self.in_flight + (self._conversation.streams.queued if self._conversation else 0)

    @property
    def has_bulk(self) -> bool:
        """Whether streams have queued so much that it takes long to write."""
        return self._conversation is not None and self._conversation.streams.queued >= LEAST_DATA

    @property
    def round_trip(self) -> float | None:
        """Smoothed round trip in seconds, once it was measured."""
        return self._conversation.pacer.smoothed if self._conversation else None

    @property
    def open_streams(self) -> int:
        """Live streams."""
        return len(self._conversation.streams.streams) if self._conversation else 0

    @property
    def totals(self) -> Totals:
        """What was counted since the start."""
        return self._finished.with_those_of(self._conversation)

    @property
    def rewritten(self) -> int:
        """Batches that were written again."""
        return self._finished.rewritten + (
            self._conversation.out.rewritten if self._conversation else 0
        )

    @property
    def in_flight(self) -> int:
        """Bytes written and not acknowledged."""
        return self._conversation.out.in_flight if self._conversation else 0

    def take_events(self) -> list[Event]:
        """Return what happened to the session since the last call."""
        events, self._events = self._events, []
        return events

    def take_changes(self) -> Changes:
        """Return what happened to streams since the last call."""
        changes, self._changes = self._changes, Changes()
        if self._conversation is not None:
            self._conversation.streams.changes = self._changes
        return changes

    # Streams, as the application uses them

    @property
    def can_open(self) -> bool:
        """Whether `open_stream` would work now."""
        conversation = self._conversation
        return self.established and conversation is not None and conversation.streams.can_open

    def open_stream(self, target: str, originator: str = "") -> Stream:
        """Open a stream. Raises OutOfStreams if `can_open` is false, ValueError for the target."""
        if self._conversation is None or not self.established:
            raise OutOfStreams
        return self._conversation.streams.open(target, originator)

    def _home(self, stream: Stream) -> Multiplexer | None:
        """Return what carries the stream now: nothing, once its session is over."""
        streams = self._conversation.streams if self._conversation else None
        return streams if streams is not None and stream.epoch == streams.epoch else None

    def accept(self, stream: Stream, bound_address: str = "") -> None:
        """Answer the peer's OPEN, once; what is sent before it waits for it."""
        if (streams := self._home(stream)) is not None:
            streams.accept(stream, bound_address)

    def owe_ack(self, now: float) -> None:
        """Have a batch go out soon in any case, as if there were something to acknowledge."""
        if self._conversation is not None:
            self._conversation.owe_ack(now)

    def refuse(self, stream: Stream, ending: Ending) -> None:
        """Answer the peer's OPEN with a refusal."""
        if (streams := self._home(stream)) is not None:
            streams.refuse(stream, ending)

    def send(self, stream: Stream, data: Buffer) -> None:
        """Queue bytes, which must not change any more; the caller minds `stream.send.room`."""
        if (streams := self._home(stream)) is not None:
            streams.send(stream, data)

    def finish(self, stream: Stream) -> None:
        """End the sending half after what is queued."""
        if (streams := self._home(stream)) is not None:
            streams.finish(stream)

    def abort(self, stream: Stream, ending: Ending) -> None:
        """Give the stream up: RESET and STOP."""
        if (streams := self._home(stream)) is not None:
            streams.reset(stream, ending)
        self.stop(stream, ending)

    def stop(self, stream: Stream, ending: Ending) -> None:
        """Read no more from the stream."""
        if (streams := self._home(stream)) is not None:
            streams.stop(stream, ending)
        else:
            stream.receive.stop()

    def release(self, stream: Stream) -> None:
        """Note that the application has let the stream go."""
        if (streams := self._home(stream)) is not None:
            streams.release(stream)

    def take(self, stream: Stream, most: int, now: float) -> Buffer:
        """Take up to `most` received bytes (there must be some), and give credit for them."""
        data = stream.receive.take(most)
        if (streams := self._home(stream)) is not None:
            assert self._conversation is not None  # noqa: S101  (it has the streams)
            streams.consume(stream, len(data), now, self._conversation.round_trip)
        return data

    # Writing

    def next_write(self, now: float) -> Write | None:
        """Return what to write next, if anything is due, also beside what is under way."""
        if now < self._repair.retry_at or self._closing_written:
            return None
        if self._notice_wanted is not None and not self._birth_wanted:
            write = self._write_notice(self._notice_wanted, now)
        else:
            write = self._next_write(now)
        return self._flight.begin(write, now) if write is not None else None

    def _next_write(self, now: float) -> Write | None:
        flight, parting = self._flight, self._parting
        if not flight.in_head and (write := self._write_head(now)) is not None:
            return write
        if parting is not None and not flight.full and (again := parting.next_rewrite(flight)):
            return Write(parting.file_offset(again), again.buffers, repeats=True)
        conversation = self._conversation
        if conversation is not None and self.established:
            conversation.measure(now, self.config.heartbeat / 1000, self.random_bytes)
        write = conversation.next_write(now) if conversation is not None else None
        if write is not None and write.asks_for_ack:
            self.active_at = now
        return write

    def _write_head(self, now: float) -> Write | None:
        """Return the birth block or a status, if one is due."""
        if self._birth_wanted:
            self._birth_wanted = False
            return Write(0, [self.link.own.block], repeats=self._repair.under_way)
        if self._ending is not None and not self._parted:
            return None
        if self._status_wanted or now >= self._next_beat or self._ack_needs_status(now):
            return self._write_status(now)
        return None

    def _ack_needs_status(self, now: float) -> bool:
        return self._conversation is not None and self._conversation.ack_needs_status(now)

    @property
    def _parted(self) -> bool:
        """Whether all is written that the peer is to read before the closing status."""
        return not self._flight and not (self._parting and self._parting.has_rewrites)

    def wants_write(self, now: float) -> bool:
        """Whether `next_write` would probably give something now."""
        if self._status_wanted or self._birth_wanted or self._ending is not None:
            return True
        return self._conversation is not None and self._conversation.wants_write(now)

    def write_done(self, write: Write, now: float) -> None:
        """Note that a write can be seen by the peer."""
        self._flight.end(write, now)
        if self._repair.under_way and self._restored:
            self._repair.succeeded()
        written = not (self._birth_wanted or self._status_wanted)
        if self._ending_published and written and self._parted:
            self._closing_written = True

    @property
    def _restored(self) -> bool:
        """Whether all was written again, and well, since a write failed."""
        rings = (self._conversation.out if self._conversation else None, self._parting)
        waiting = any(ring is not None and ring.has_rewrites for ring in rings)
        head_waits = self._birth_wanted or self._status_wanted
        return not (head_waits or waiting or self._flight.repeats)

    def write_failed(self, write: Write, now: float) -> None:
        """Note that a write failed: everything may be lost, also what was written before."""
        self._flight.end(write, now)
        self.restore()
        self._repair.failed(now)
        if self._repair.lasts(now) > self.link.peer_timeout:
            self._fail(Ending(Code.STORAGE, "the own mailbox cannot be written"))

    def restore(self) -> None:
        """Write birth block, status and all that is not acknowledged again."""
        self._birth_wanted = self._status_wanted = True
        if self._conversation is not None:
            self._conversation.out.rewrite_all()
        if self._parting is not None:
            self._parting.rewrite_all()

    def _write_status(self, now: float) -> Write:
        self._status_wanted = False
        # a little early, and never the same: many tunnels should not beat in step
        early = self.random_bytes(1)[0] / 255 * BEAT_JITTER
        self._next_beat = now + self.config.heartbeat / 1000 * (1 - early)
        self.beat += 1
        ending = self._ending
        items: list[tuple[int, bytes]] = [(ItemType.REPORT, self.report())]
        if ending is not None:
            self._ending_published = True
            items.insert(0, (ItemType.REASON, wire.encode_text(ending.reason, wire.MAX_REASON)))
        peer = self.link.peer
        write_position, read_position = self._positions()
        status = Status(
            incarnation=self.link.own.incarnation,
            echo=peer.incarnation if peer else None,
            beat=self.beat,
            write_position=write_position,
            read_position=read_position,
            closed=ending is not None,
            code=ending.code if ending else Code.OK,
            items=tuple(items),
        )
        if self._conversation is not None:
            self._conversation.status_told()
        block = self.blocks.encode_status(status, self.role)
        return Write(wire.status_offset(self.beat), [block], repeats=self._repair.under_way)

    def _positions(self) -> tuple[int, int]:
        """Return write and read position of the current epoch."""
        if self._conversation is None:
            return self._final_positions
        return self._conversation.out.position, self._conversation.inbound.position

    def _write_notice(self, ending: Ending, now: float) -> Write | None:
        self._notice_wanted = None
        notice = self._conversation.write_notice(now) if self._conversation else None
        self._close(ending)
        return notice or self._next_write(now)

    # Reading

    def begin_poll(self, now: float) -> None:
        """Begin to look for news; what is still under way of an earlier poll does not count."""
        conversation = self._conversation if self.established else None
        self._look_at_ring = conversation is not None
        self._fresh_until = now + LONGEST_POLL
        unfinished = self._head_at == _NEVER
        if conversation is None or conversation.begin_poll() or unfinished:
            self._head_at = min(self._head_at, now)

    def look_at_head(self, now: float) -> None:
        """Have the head read, too: something has changed that is not in the ring."""
        self._head_at = min(self._head_at, now)
        self._announced = True

    def next_read(self, now: float) -> Read | None:
        """Return what to read at this poll, also while earlier reads of it are under way."""
        if now >= self._head_at:
            self._head_at = _NEVER  # until it was read, or the next poll begins
            return Read(0, wire.HEAD_LENGTH, now)
        conversation = self._conversation if self.established else None
        if conversation is None:
            return None
        ring = conversation.inbound
        ring.speculate = self.speculate
        first, self._look_at_ring = self._look_at_ring, False
        piece = ring.first_piece() if first else ring.next_piece(now < self._fresh_until)
        if piece is None:
            return None
        may_wait = self.speculate and ring.is_awaited(piece)
        marker = ring.marker(piece.position) if may_wait else None
        return Read(ring.file_offset(piece.position), piece.length, now, ring, piece, marker)

    def receive(self, read: Read, data: bytes, now: float) -> bool:
        """Take what was read; whether it was something that makes more likely at once."""
        if self.speculate:
            waited = read.marker is not None
            self._read_times.add(len(data), now - read.began, now, waited=waited)
        if read.piece is None:
            before = self.established
            self.receive_head(data, now)
            return self.established and not before
        conversation = self._conversation
        if conversation is None or conversation.inbound is not read.ring:
            return False
        return self._receive_ring(conversation, read.piece, data, now)

    @property
    def marker(self) -> tuple[int, bytes] | None:
        """File offset and bytes that announce the next batch of the peer."""
        if self._conversation is None or not self.established:
            return None
        ring = self._conversation.inbound
        return ring.marker(ring.position)

    @property
    def caught_up(self) -> bool:
        """Whether the last look showed that the next batch of the peer was not there yet."""
        return self._conversation is not None and self._conversation.inbound.caught_up

    def receive_head(self, head: bytes, now: float) -> None:
        """Take the first `wire.HEAD_LENGTH` bytes of the peer's file as they were read."""
        announced, self._announced = self._announced, False
        before = self.link.status
        waiting = self._conversation is not None and self._conversation.out.awaits_ack
        heartbeat = self.config.heartbeat / 1000
        self._head_at = now + min(HEAD_INTERVAL_UNACKED if waiting else HEAD_INTERVAL, heartbeat)
        if self._ending is not None:
            return
        try:
            meetings = self.link.observe(head, now)
            for meeting in meetings:
                self._meet(meeting, now)
            self._take_status(now)
        except IncompatibleVersion as error:
            ours = f"{wire.VERSION_MAJOR}.{wire.VERSION_MINOR}"
            self._fail(Ending(Code.VERSION, f"the other side speaks {error}, this one {ours}"))
        except ProtocolViolation as error:
            self._fail(Ending(Code.PROTOCOL, str(error)))
        if announced and self.link.status is not before and not waiting:
            self._head_at = now + heartbeat  # by then the next beat will have been told of, too
        self._judge_silence(now)

    def _receive_ring(
        self, conversation: Conversation, piece: Piece, data: bytes, now: float
    ) -> bool:
        if self._ending is not None:
            return False
        try:
            progress = conversation.receive(piece, data, now)
        except ProtocolViolation as error:
            self._fail(Ending(Code.PROTOCOL, str(error)))
            return True
        if not progress:
            self._finished.stale += not piece.looks and self._is_behind(conversation)
            return False
        self.active_at = now
        self.link.heard()
        self._note_closing()
        self._judge_silence(now)
        return True

    def _is_behind(self, conversation: Conversation) -> bool:
        status = self._status_to_us()
        return status is not None and status.write_position > conversation.inbound.position

    def _status_to_us(self) -> Status | None:
        """Return the peer's newest status if it is one of this very session."""
        status = self.link.status
        if status is None or not self.link.established:
            return None
        return status if status.echo == self.link.own.incarnation else None

    def _take_status(self, now: float) -> None:
        status = self._status_to_us()
        if status is None or self._conversation is None:
            return
        self._conversation.out.acknowledge(status.read_position, now)
        self._note_closing()

    def _note_closing(self) -> None:
        """End the session once all that the peer wrote before its closing has been read."""
        status = self._status_to_us()
        if status is None or self._conversation is None:
            return
        if status.closed and self._conversation.inbound.position >= status.write_position:
            self._lose(Ending(status.code, status.text(ItemType.REASON)))
            self.link.lost()

    def receive_own(self, head: bytes, now: float) -> None:
        """Take what was read back of the own head: it should be ours, and whole."""
        if self._birth_wanted or self._ending is not None:
            return
        try:
            birth = self.blocks.decode_birth(head[: wire.PAGE], self.role)
        except Incompatible:
            self._fail(
                Ending(
                    Code.SUPERSEDED,
                    "another muxfs took this side over, with a key or of another version",
                )
            )
            return
        except ProtocolViolation:
            birth = None
        mine = self.link.own.incarnation
        its = birth.incarnation if birth else None
        if birth is not None and its == mine:
            return
        if birth is not None and its is not None and its > mine:
            self._superseded(birth)
        elif its is not None and its.generation == mine.generation:
            self._be_born_again(mine.generation + 1, _NUMBER_TAKEN, now)
        else:
            self.restore()

    # Time

    def next_timeout(self) -> float:
        """When `handle_timeout` is due, or a write is: a time of the caller's clock.

        What waits for the end of a write is not counted.
        """
        if self._closing_written:
            return _NEVER
        due = _NEVER
        if not self._flight.in_head:
            if self._birth_wanted or (not self._flight and not self._parted):
                due = 0.0
            elif self._ending is None or self._parted:
                due = 0.0 if self._status_wanted else self._next_beat
        if self.established and self._conversation is not None:
            due = min(due, self._conversation.next_timeout(self.link.silent))
        return max(self._repair.retry_at, due)

    def handle_timeout(self, now: float) -> None:
        """Do what time asks for: writing again, noticing silence."""
        conversation = self._conversation
        if conversation is not None and self.established and not self.link.silent:
            conversation.out.handle_timeout(now)
        if conversation is not None and conversation.streams.exhausted and self._ending is None:
            generation = self.link.own.incarnation.generation + 1
            self._be_born_again(generation, _IDS_USED_UP, now)
        self._judge_silence(now)

    def _judge_silence(self, now: float) -> None:
        if self._ending is not None:
            return
        if self.link.dead:
            ending = Ending(Code.PEER_DEAD, "the other side gave no sign of life")
            self._be_born_again(self.link.own.incarnation.generation + 1, ending, now)
        elif self.link.silent != self._was_silent:
            self._was_silent = self.link.silent
            event: Event = Silent(self.link.silence) if self._was_silent else Resumed()
            self._events.append(event)

    # Meeting and parting

    def close(self, ending: Ending) -> None:
        """Close this side: streams end, and the peer is told with the next writes.

        Called again it does not wait for the writes: the storage hangs.
        """
        conversation = self._conversation
        waits = self._ending is not None or self._notice_wanted is not None
        if not waits and conversation is not None and not conversation.awaits_room:
            self._notice_wanted = ending
        else:
            self._close(ending)

    def _close(self, ending: Ending) -> None:
        if self._ending is None:
            self._final_positions = self._positions()
            self._parting = self._conversation.out if self._conversation else None
            self._lose(ending)
            self._ending = ending
            self._status_wanted = True

    def _fail(self, ending: Ending) -> None:
        if self._ending is None:
            self._close(ending)
            self._events.append(Failed(ending))
            # after a failure of the own storage there is nobody to tell
            self._closing_written = ending.code in {Code.STORAGE, Code.SUPERSEDED}

    def _meet(self, meeting: Meeting, now: float) -> None:
        if self._ending is not None:
            return
        if meeting is Meeting.NEW_PEER:
            self._lose(Ending(Code.PEER_RESTARTED, "the other side was restarted"))
            self._status_wanted = True
            self.active_at = now
        elif meeting is Meeting.STRANGER and self.link.stranger is not None:
            self._meet_stranger(self.link.stranger.reason)
        elif meeting is Meeting.ESTABLISHED:
            self._establish(now)
        elif meeting is Meeting.CLASH:
            rival = self.link.rival or self.link.own.incarnation
            if rival.generation >= wire.MAX_SEQUENCE:
                self._fail(Ending(Code.PROTOCOL, "an echo of a generation out of its limits"))
            else:
                self._be_born_again(rival.generation + 1, _NUMBER_TAKEN, now)
        else:
            self._superseded(None)

    def _meet_stranger(self, reason: str) -> None:
        if self.blocks.keyed:  # whoever can write to the directory can play one
            self._events.append(Strange(reason))
        else:
            self._fail(Ending(Code.VERSION, reason))

    def _establish(self, now: float) -> None:
        peer = self.link.peer
        assert peer is not None  # noqa: S101  (the link established it)
        self._conversation = Conversation.begin(
            self.link.own,
            peer,
            self.link.epoch,
            self.blocks,
            self._flight,
            self._read_times,
            self._changes,
        )
        self.active_at = now
        self._events.append(Established(peer))

    def _lose(self, ending: Ending) -> None:
        """End the session with the peer, if there is one."""
        if self._conversation is None:
            return
        self._conversation.streams.lose_all(ending)
        self._finished = self.totals
        self._conversation = None
        self._was_silent = False
        self._events.append(Lost(ending))

    def _superseded(self, by: Birth | None) -> None:
        who = f" ({by.text(ItemType.HOST)})" if by and by.text(ItemType.HOST) else ""
        self._fail(Ending(Code.SUPERSEDED, f"another process took this side over{who}"))

    def _be_born_again(self, generation: int, ending: Ending, now: float) -> None:
        self._lose(ending)
        self.link.born_again(self._birth(generation))
        self.beat = 0
        self.active_at = now
        self._birth_wanted = self._status_wanted = True
        self._events.append(Born(generation))

    def _birth(self, generation: int) -> Birth:
        config = self.config
        birth = Birth(
            role=self.role,
            incarnation=Incarnation(generation, self.random_bytes(wire.NONCE_LENGTH)),
            capacity=config.capacity,
            max_batch=config.max_batch,
            max_streams=config.max_streams,
            initial_credit=config.initial_credit,
            heartbeat=config.heartbeat,
            peer_timeout=config.peer_timeout,
            items=config.items,
        )
        return self.blocks.begin(birth, self.random_bytes(wire.SHARE_LENGTH))
