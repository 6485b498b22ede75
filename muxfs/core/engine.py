"""One side of a session, sans-IO: what to write, what to read, and what came of it.

The caller owns the files, the clock and the random numbers:

* `next_write(now)` gives the next thing to write; after it was made durable, or
  failed, the caller says `write_done()` or `write_failed(now)`. One at a time.
* `next_read(now)` says which parts of the peer's file to read; what was read goes
  to `receive_head` and `receive_ring`.
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
from muxfs.core.events import Born, Established, Event, Failed, Lost, Resumed, Silent
from muxfs.core.inbound import Batch, ReceiveRing
from muxfs.core.link import Link, Meeting
from muxfs.core.multiplexer import Changes, Filling, Multiplexer, OutOfStreams
from muxfs.core.outbound import SendRing
from muxfs.core.pacing import Pacer
from muxfs.core.stream import Ending, Stream
from muxfs.core.wire import (
    BATCH_HEADER,
    Birth,
    Buffer,
    Code,
    Incarnation,
    IncompatibleVersion,
    Items,
    ItemType,
    ProtocolViolation,
    Role,
    Status,
)

ACK_DELAY: Final = 0.1
"""Seconds that an ack waits for a batch to ride on."""

ACK_BYTES: Final = 256 << 10
HEAD_INTERVAL: Final = 2.5
"""Seconds between looks at an established peer's head."""

HEAD_INTERVAL_UNACKED: Final = 0.5
"""The same while acks are awaited: a peer that was killed and restarted is found soon."""

LEAST_DATA: Final = 64 << 10
"""Bytes of allowance to wait for while more is queued: no silly small batches."""

FIRST_BACKOFF: Final = 0.1
MOST_BACKOFF: Final = 5.0
_SMALL_ROOM: Final = 2048
"""Less ring than this before its end is padded if a control frame does not fit."""

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


@attrs.frozen
class Write:
    """Buffers to be written one after the other at a file offset."""

    offset: int
    buffers: list[Buffer]


@attrs.frozen
class ReadPlan:
    """What to read now: the head, and (offset, length) in the ring."""

    head: bool
    ring: tuple[int, int] | None


@attrs.define
class Engine:
    """One side of a session; see the module's text."""

    role: Role
    config: EngineConfig
    random_bytes: Callable[[int], bytes]
    report: Callable[[], bytes]
    link: Link = attrs.field(init=False)
    active_at: float = 0.0
    beat: int = 0
    speculate: bool = False
    """Whether a read is a round trip, so that guessing how much came is worth it."""

    written_bytes: int = 0
    read_bytes: int = 0
    _finished_opened: int = 0
    _finished_torn: int = 0
    _stale: int = 0
    _finished_rewritten: int = 0
    _streams: Multiplexer | None = None
    _outbound: SendRing | None = None
    _inbound: ReceiveRing | None = None
    _pacer: Pacer = attrs.field(factory=Pacer)
    _events: list[Event] = attrs.field(factory=list)
    _changes: Changes = attrs.field(factory=Changes)
    _birth_wanted: bool = True
    _status_wanted: bool = True
    _next_beat: float = 0.0
    _head_at: float = 0.0
    _ack_owed: bool = False
    _ack_at: float = _NEVER
    _ack_sent: int = 0
    _ending: Ending | None = None
    _ending_published: bool = False
    _closing_written: bool = False
    _retry_at: float = 0.0
    _backoff: float = FIRST_BACKOFF
    _failing_since: float | None = None
    _was_silent: bool = False
    _pings: dict[bytes, float] = attrs.field(factory=dict)
    _ping_at: float = 0.0
    _pinged_traffic: int = 0
    _notice_wanted: Ending | None = None
    _look_at_head: bool = False
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
    ) -> Engine:
        """Start a life with the generation that `link.first_generation` gave."""
        engine = cls(role, config, random_bytes, report, active_at=now)
        engine.link = Link(engine._birth(generation))
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
    def flushed(self) -> bool:
        """Whether all that streams have queued was written and acknowledged."""
        if self._streams is None or self._outbound is None:
            return True
        return self._streams.idle and not self._outbound.awaits_ack

    @property
    def unsent(self) -> int:
        """Bytes that streams have queued, and bytes that are not acknowledged."""
        return self.in_flight + (self._streams.queued if self._streams else 0)

    @property
    def round_trip(self) -> float | None:
        """Smoothed round trip in seconds, once it was measured."""
        return self._pacer.smoothed

    @property
    def open_streams(self) -> int:
        """Live streams."""
        return len(self._streams.streams) if self._streams else 0

    @property
    def opened_streams(self) -> int:
        """Streams opened by either side so far."""
        return self._finished_opened + (self._streams.opened if self._streams else 0)

    @property
    def torn_reads(self) -> int:
        """Reads that showed a batch in part."""
        return self._finished_torn + (self._inbound.torn if self._inbound else 0)

    @property
    def stale_reads(self) -> int:
        """Reads that did not show what the peer's status says was written."""
        return self._stale

    @property
    def rewritten(self) -> int:
        """Batches that were written again."""
        return self._finished_rewritten + (self._outbound.rewritten if self._outbound else 0)

    @property
    def in_flight(self) -> int:
        """Bytes written and not acknowledged."""
        return self._outbound.in_flight if self._outbound else 0

    def take_events(self) -> list[Event]:
        """Return what happened to the session since the last call."""
        events, self._events = self._events, []
        return events

    def take_changes(self) -> Changes:
        """Return what happened to streams since the last call."""
        changes, self._changes = self._changes, Changes()
        if self._streams is not None:
            self._streams.changes = self._changes
        return changes

    # Streams, as the application uses them

    @property
    def can_open(self) -> bool:
        """Whether `open_stream` would work now."""
        streams = self._streams
        return self.link.established and streams is not None and streams.can_open

    def open_stream(self, target: str, originator: str = "") -> Stream:
        """Open a stream. Raises OutOfStreams if `can_open` is false, ValueError for the target."""
        if self._streams is None or not self.link.established:
            raise OutOfStreams
        return self._streams.open(target, originator)

    def _home(self, stream: Stream) -> Multiplexer | None:
        """Return what carries the stream now: nothing, once its session is over."""
        streams = self._streams
        return streams if streams is not None and stream.epoch == streams.epoch else None

    def accept(self, stream: Stream, bound_address: str = "") -> None:
        """Answer the peer's OPEN; once, and before anything is sent."""
        if (streams := self._home(stream)) is not None:
            streams.accept(stream, bound_address)

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
            streams.consume(stream, len(data), now, self._pacer.round_trip)
        return data

    # Writing

    def next_write(self, now: float) -> Write | None:
        """Return what to write next, if anything is due; the previous write must be over."""
        if now < self._retry_at or self._closing_written:
            return None
        if self._notice_wanted is not None and not self._birth_wanted:
            return self._write_notice(self._notice_wanted, now)
        if self._birth_wanted:
            self._birth_wanted = False
            return Write(0, [wire.encode_birth(self.link.own)])
        if self._parting is not None and (again := self._parting.next_rewrite()) is not None:
            return Write(self._parting.file_offset(again), again.buffers)
        if self._status_wanted or now >= self._next_beat:
            return self._write_status(now)
        return self._write_batch(self._outbound, now) if self._outbound is not None else None

    def wants_write(self, now: float) -> bool:
        """Whether `next_write` would probably give something now."""
        if self._status_wanted or self._birth_wanted or self._ending is not None:
            return True
        out, streams = self._outbound, self._streams
        if out is None or streams is None:
            return False
        return now >= self._ack_at or streams.has_control or self._may_send_data(out)

    def write_done(self) -> None:
        """Note that the last write can be seen by the peer."""
        self._failing_since = None
        self._backoff = FIRST_BACKOFF
        if self._ending_published and not (self._birth_wanted or self._status_wanted):
            self._closing_written = True

    def write_failed(self, now: float) -> None:
        """Note that the last write failed: everything may be lost, also what was written before."""
        self.restore()
        self._retry_at = now + self._backoff
        self._backoff = min(MOST_BACKOFF, 2 * self._backoff)
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > self.link.peer_timeout:
            self._fail(Ending(Code.STORAGE, "the own mailbox cannot be written"))

    def restore(self) -> None:
        """Write birth block, status and all that is not acknowledged again."""
        self._birth_wanted = self._status_wanted = True
        for ring in (self._outbound, self._parting):
            if ring is not None:
                ring.rewrite_all()

    def _write_status(self, now: float) -> Write:
        self._status_wanted = False
        self._next_beat = now + self.config.heartbeat / 1000
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
        self._ack_told()
        return Write(wire.status_offset(self.beat), [wire.encode_status(status)])

    def _positions(self) -> tuple[int, int]:
        """Return write and read position of the current epoch."""
        if self._outbound is None or self._inbound is None:
            return self._final_positions
        return self._outbound.position, self._inbound.position

    def _write_batch(self, out: SendRing, now: float) -> Write | None:
        again = out.next_rewrite()
        if again is not None:
            return Write(out.file_offset(again), again.buffers)
        assert self._streams is not None  # noqa: S101  (made and dropped with the ring)
        ack_due = self._ack_owed and now >= self._ack_at
        has_work = self._streams.has_control or self._may_send_data(out)
        if not has_work and not ack_due:
            return None
        room = min(out.room, out.max_batch)
        if room < wire.ALIGNMENT:
            return self._write_status(now) if ack_due else None
        filling = Filling(room - BATCH_HEADER)
        # half of what may be in flight: one batch on its way while the next one is made
        most = min(out.allowance, self._pacer.allowance // 2)
        self._streams.fill(filling, max(0, most))
        if filling.count == 0 and has_work and self._at_end_of_ring(out):
            return self._write_pad(out, now)
        if filling.count == 0 and not ack_due:
            return None
        ack = self._inbound.position if self._inbound else 0
        buffers, stride = out.encode(ack, filling.parts, filling.count)
        if filling.asks_for_ack:
            self.active_at = now
        return self._place(out, buffers, stride, now, filling.asks_for_ack)

    def _may_send_data(self, out: SendRing) -> bool:
        assert self._streams is not None  # noqa: S101
        # a small allowance is worth a batch only if nothing is on its way that will enlarge it
        return out.allowance >= min(LEAST_DATA, self._pacer.allowance) and self._streams.has_data

    def _at_end_of_ring(self, out: SendRing) -> bool:
        return out.capacity - out.position % out.capacity <= min(out.room, _SMALL_ROOM)

    def _write_pad(self, out: SendRing, now: float) -> Write:
        buffers, stride = out.encode_pad(self._inbound.position if self._inbound else 0)
        return self._place(out, buffers, stride, now, asks_for_ack=False)

    def _write_notice(self, ending: Ending, now: float) -> Write | None:
        out, self._notice_wanted = self._outbound, None
        notice = None
        if out is not None and out.room >= wire.ALIGNMENT:
            buffers, stride = out.encode_notice(self._positions()[1])
            notice = self._place(out, buffers, stride, now, asks_for_ack=False)
        self._close(ending)
        return notice or self.next_write(now)

    def _place(
        self, out: SendRing, buffers: list[Buffer], stride: int, now: float, asks_for_ack: bool
    ) -> Write:
        batch = out.place(buffers, stride, now, asks_for_ack)
        self.written_bytes += stride
        self._ack_told()
        return Write(out.file_offset(batch), batch.buffers)

    def _ack_told(self) -> None:
        self._ack_owed = False
        self._ack_at = _NEVER
        self._ack_sent = self._inbound.position if self._inbound else 0

    # Reading

    @property
    def awaits_room(self) -> bool:
        """Whether the ring is full, so that acks may come in the peer's status only."""
        return self._outbound is not None and self._outbound.room < wire.ALIGNMENT

    def next_read(self, now: float) -> ReadPlan:
        """Return what to read of the peer's file at this poll."""
        head = (
            not self.link.established
            or now >= self._head_at
            or self.awaits_room
            or self._look_at_head
        )
        ring = self._inbound.extent if self._inbound and self.link.established else None
        return ReadPlan(head, ring)

    @property
    def marker(self) -> tuple[int, bytes] | None:
        """File offset and bytes that announce the next batch of the peer."""
        if self._inbound is None or not self.link.established:
            return None
        return self._inbound.extent[0] + wire.MARKER_OFFSET, self._inbound.marker

    @property
    def read_again(self) -> bool:
        """Whether the last read showed that more is there already."""
        return self._inbound is not None and self._inbound.incomplete

    def receive_head(self, head: bytes, now: float) -> None:
        """Take the first `wire.HEAD_LENGTH` bytes of the peer's file as they were read."""
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
        waiting = self._outbound is not None and self._outbound.awaits_ack
        pause = HEAD_INTERVAL_UNACKED if waiting else HEAD_INTERVAL
        self._head_at = now + min(pause, self.config.heartbeat / 1000)
        self._judge_silence(now)

    def receive_ring(self, data: bytes, now: float) -> bool:
        """Take what was read at `next_read().ring`; whether a new batch was in it."""
        ring = self._inbound
        if ring is None or self._ending is not None:
            return False
        before = ring.position
        ring.speculate = self.speculate
        try:
            for batch in ring.receive(data):
                self._receive_batch(batch, len(data), now)
        except ProtocolViolation as error:
            self._fail(Ending(Code.PROTOCOL, str(error)))
        if ring.position == before:
            self._stale += self._is_behind(ring)
            return False
        self.read_bytes += ring.position - before
        self.active_at = now
        self.link.heard()
        self._schedule_ack(ring, now)
        self._note_closing()
        self._judge_silence(now)
        return True

    def _receive_batch(self, batch: Batch, whole: int, now: float) -> None:
        header = batch.header
        assert self._outbound is not None  # noqa: S101
        assert self._streams is not None  # noqa: S101
        self._outbound.acknowledge(header.ack, now)
        if header.pad and (header.body_length or header.frame_count):
            raise ProtocolViolation("a PAD batch with a body")
        self._look_at_head = header.notice
        if header.frame_count:
            self._ack_owed = True
        for frame in wire.decode_frames(batch.body, header.frame_count):
            self._streams.receive(frame, whole)
        for payload in self._changes.pongs:
            sent_at = self._pings.pop(payload, None)
            if sent_at is not None:
                self._pacer.answered(now - sent_at)
        self._changes.pongs.clear()

    def _is_behind(self, ring: ReceiveRing) -> bool:
        status = self._status_to_us()
        return status is not None and status.write_position > ring.position

    def _status_to_us(self) -> Status | None:
        """Return the peer's newest status if it is one of this very session."""
        status = self.link.status
        if status is None or not self.link.established:
            return None
        return status if status.echo == self.link.own.incarnation else None

    def _schedule_ack(self, ring: ReceiveRing, now: float) -> None:
        if not self._ack_owed:
            return
        if ring.position - self._ack_sent >= min(ACK_BYTES, ring.capacity // 8):
            self._ack_at = now
        else:
            self._ack_at = min(self._ack_at, now + ACK_DELAY)

    def _take_status(self, now: float) -> None:
        status = self._status_to_us()
        if status is None or self._outbound is None:
            return
        self._outbound.acknowledge(status.read_position, now)
        self._note_closing()

    def _note_closing(self) -> None:
        """End the session once all that the peer wrote before its closing has been read."""
        status = self._status_to_us()
        if status is None or self._inbound is None:
            return
        if status.closed and self._inbound.position >= status.write_position:
            self._lose(Ending(status.code, status.text(ItemType.REASON)))
            self.link.lost()

    def receive_own(self, head: bytes, now: float) -> None:
        """Take what was read back of the own head: it should be ours, and whole."""
        if self._birth_wanted or self._ending is not None:
            return
        try:
            birth = wire.decode_birth(head[: wire.PAGE])
        except IncompatibleVersion:
            self._fail(Ending(Code.SUPERSEDED, "another version of muxfs took this side over"))
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
        """When `handle_timeout` is due, or a write is: a time of the caller's clock."""
        if self._closing_written:
            return _NEVER
        times = [self._next_beat]
        if self.link.established and self._outbound is not None:
            times.append(self._ack_at)
            if not self.link.silent:
                times.append(self._outbound.retry_at)
        return max(self._retry_at, min(times))

    def handle_timeout(self, now: float) -> None:
        """Do what time asks for: writing again, measuring the round trip, noticing silence."""
        if self._outbound is not None and self.link.established:
            if not self.link.silent:
                self._outbound.handle_timeout(now)
            self._measure(now)
        if self._streams is not None and self._streams.exhausted and self._ending is None:
            generation = self.link.own.incarnation.generation + 1
            self._be_born_again(generation, _IDS_USED_UP, now)
        self._judge_silence(now)

    def _measure(self, now: float) -> None:
        """Send a PING where there was traffic since the last: none is sent while idle."""
        streams = self._streams
        if streams is None or now < self._ping_at or streams.traffic == self._pinged_traffic:
            return
        payload = self.random_bytes(8)
        self._pings[payload] = now  # several: a round trip may be longer than a heartbeat
        if len(self._pings) > wire.MAX_PENDING_PINGS:
            del self._pings[next(iter(self._pings))]
        streams.ping(payload)
        self._ping_at = now + self.config.heartbeat / 1000
        self._pinged_traffic = streams.traffic

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
        out = self._outbound
        waits = self._ending is not None or self._notice_wanted is not None
        if not waits and out is not None and out.room >= wire.ALIGNMENT:
            self._notice_wanted = ending
        else:
            self._close(ending)

    def _close(self, ending: Ending) -> None:
        if self._ending is None:
            self._final_positions = self._positions()
            self._parting = self._outbound
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
            self._check_features()
            self._status_wanted = True
            self.active_at = now
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

    def _check_features(self) -> None:
        peer = self.link.peer
        if peer is not None and peer.features_required:
            reason = f"the other side requires features {peer.features_required:#x}, unknown here"
            self._fail(Ending(Code.VERSION, reason))

    def _establish(self, now: float) -> None:
        peer = self.link.peer
        assert peer is not None  # noqa: S101  (the link established it)
        config = self.config
        epoch = self.link.epoch
        self._pacer = Pacer()
        self._outbound = SendRing(
            wire.batch_epoch(epoch, self.role),
            wire.RING_OFFSET,
            config.capacity,
            min(config.max_batch, peer.max_batch, config.capacity // 4),
            self._pacer,
        )
        self._inbound = ReceiveRing(
            wire.batch_epoch(epoch, self.role.peer),
            peer.ring_offset,
            peer.capacity,
            config.max_batch,
        )
        self._streams = Multiplexer(
            self.role,
            peer.max_streams,
            peer.initial_credit,
            config.max_streams,
            config.initial_credit,
            self._changes,
            epoch=epoch,
        )
        self._ack_told()
        self._look_at_head = False
        self.active_at = now
        self._pings.clear()
        self._ping_at = 0.0
        self._pinged_traffic = -1
        self._events.append(Established(peer))

    def _lose(self, ending: Ending) -> None:
        """End the session with the peer, if there is one."""
        if self._outbound is None or self._inbound is None or self._streams is None:
            return
        self._streams.lose_all(ending)
        self._finished_opened += self._streams.opened
        self._finished_torn += self._inbound.torn
        self._finished_rewritten += self._outbound.rewritten
        self._streams = self._outbound = self._inbound = None
        self._was_silent = False
        self._ack_told()
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
        return Birth(
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
