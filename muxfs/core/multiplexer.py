"""All streams of one epoch: frames in, frames out.

Rule 1: nothing here waits. What arrives goes to its stream's buffer, bounded by
credit; what goes out is asked for by `fill`.
Rule 2: whatever the peer sends, memory stays bounded: streams by `max_streams`,
buffers by credit, control frames by `MAX_CONTROL_QUEUE` and the live streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.credit import ReceiveWindow, WindowBudget
from muxfs.core.schedule import Scheduler
from muxfs.core.stream import Ending, ReceiveHalf, SendBudget, SendHalf, SendState, Stream
from muxfs.core.wire import FRAME_HEADER, Buffer, Code, Frame, FrameType, ProtocolViolation, Role

_OPENS_DIAL: Final = 1
_OPENS_LISTEN: Final = 2
_LAST_STREAM_ID: Final = (1 << 32) - 1
_MOST_OF_A_STREAM: Final = 3
"""Control frames that a live stream may have in the queue at most: OPEN or ACCEPT, CREDIT, STOP."""

LARGE: Final = 64 << 10
"""Bytes of a stream that go in a batch of their own after those that overtook it: what comes
first is then written and read without them (tmpfs: an echo beside bulk waited 0.4 ms longer)."""

_PINGS: Final = frozenset((FrameType.PING, FrameType.PONG))


class OutOfStreams(Exception):
    """No stream can be opened now: the peer's limit is reached, or all ids are used up."""


@attrs.define
class Changes:
    """What happened since it was last taken: streams to look at, in order, each once."""

    incoming: list[Stream] = attrs.field(factory=list)
    touched: dict[Stream, None] = attrs.field(factory=dict)
    pongs: list[bytes] = attrs.field(factory=list)


@attrs.define
class Filling:
    """Frames for one batch: encoded parts and their number."""

    room: int
    parts: list[Buffer] = attrs.field(factory=list)
    count: int = 0
    asks_for_ack: bool = False

    def add(self, *parts: Buffer, length: int) -> None:
        """Add one frame of `length` bytes, header included."""
        self.parts += parts
        self.count += 1
        self.room -= length
        self.asks_for_ack = True


@attrs.define
class Multiplexer:
    """The streams of one epoch, as one side sees them."""

    role: Role
    peer_max_streams: int
    peer_initial_credit: int
    max_streams: int
    initial_credit: int
    changes: Changes = attrs.field(factory=Changes)
    epoch: int = attrs.field(default=0, kw_only=True)
    streams: dict[int, Stream] = attrs.field(factory=dict)
    opened: int = 0

    _next_id: int = attrs.field(init=False)
    _last_peer_id: int = 0
    _unanswered: int = 0
    _own_live: int = 0
    _peer_live: int = 0
    _peer_pending: int = 0
    _control: deque[Frame] = attrs.field(factory=deque)
    _pings: deque[bytes] = attrs.field(factory=deque)
    """What the peer wants answered."""

    _own_ping: bytes | None = None
    _scheduler: Scheduler = attrs.field(factory=Scheduler)
    _budget: WindowBudget = attrs.field(factory=WindowBudget)
    _send_budget: SendBudget = attrs.field(factory=SendBudget)

    def __attrs_post_init__(self) -> None:
        self._next_id = _OPENS_DIAL if self.role is Role.DIAL else _OPENS_LISTEN

    # What the application does

    @property
    def can_open(self) -> bool:
        """Whether `open` would be allowed now."""
        return (
            self._unanswered < wire.MAX_PENDING_OPENS
            and self._own_live < self.peer_max_streams
            and self._next_id <= _LAST_STREAM_ID
        )

    @property
    def exhausted(self) -> bool:
        """Whether all stream ids of this epoch are used up."""
        return self._next_id > _LAST_STREAM_ID

    def open(self, target: str, originator: str = "") -> Stream:
        """Open a stream. Raises OutOfStreams; ValueError for a target that is too long."""
        if not self.can_open:
            raise OutOfStreams
        payload = wire.encode_open(target, originator)
        stream = self._new_stream(self._next_id, opened_here=True)
        stream.target, stream.originator = target, originator
        self._next_id += 2
        self._unanswered += 1
        self._own_live += 1
        self._control.append(Frame(FrameType.OPEN, stream.stream_id, payload=payload))
        return stream

    def accept(self, stream: Stream, bound_address: str = "") -> None:
        """Answer the peer's OPEN."""
        if stream.lost or stream.accepted:
            return
        stream.accepted = True
        self._peer_pending -= 1
        if stream.send.state is SendState.DONE:
            return  # it was stopped meanwhile, and the RESET that went out was the answer
        payload = wire.encode_text(bound_address, wire.MAX_BOUND_ADDRESS)
        self._control.append(Frame(FrameType.ACCEPT, stream.stream_id, payload=payload))
        self._activate(stream)

    def send(self, stream: Stream, data: Buffer) -> None:
        """Queue bytes (which must not change any more) on a stream whose sending half is open."""
        stream.send.push(data)
        self._activate(stream)

    def finish(self, stream: Stream) -> None:
        """End the sending half cleanly after what is queued."""
        if not stream.lost:
            stream.send.finish()
            self._activate(stream)

    def _activate(self, stream: Stream) -> None:
        """Let a stream send; what is queued on one of the peer's waits for its ACCEPT."""
        refused = stream.send.state is SendState.RESETTING
        if stream.send.sendable and (stream.opened_here or stream.accepted or refused):
            self._scheduler.activate(stream)

    def reset(self, stream: Stream, ending: Ending) -> None:
        """End the sending half without FIN."""
        if stream.lost or stream.send.state is SendState.DONE:
            return
        stream.send.reset(ending)
        self._activate(stream)

    def stop(self, stream: Stream, ending: Ending) -> None:
        """Read no more from the stream; the peer is told unless its direction is over."""
        told = stream.receive.peer_ended or stream.lost
        stream.receive.stop()
        self._release_window(stream)
        if not told:
            self._control.append(
                Frame(
                    FrameType.STOP,
                    stream.stream_id,
                    sequence=stream.receive.window.consumed,
                    payload=wire.encode_text(ending.reason, wire.MAX_REASON),
                    code=ending.code,
                )
            )
        self._settle(stream)

    def consume(self, stream: Stream, length: int, now: float, round_trip: float) -> None:
        """Count bytes that the application took, and give credit when it is time."""
        receive = stream.receive
        if stream.lost or receive.peer_ended:
            receive.window.consumed += length  # nothing more will come: no window to grow
            self._release_window(stream)
            return
        if receive.window.consume(length, now, round_trip) and not stream.credit_due:
            stream.credit_due = True
            self._control.append(Frame(FrameType.CREDIT, stream.stream_id))

    def ping(self, payload: bytes) -> None:
        """Ask for a PONG with the next frames; an earlier PING that still waits is dropped."""
        self._own_ping = payload

    def lose_all(self, ending: Ending) -> None:
        """End every stream: the session under them is gone."""
        for stream in self.streams.values():
            stream.lose(ending)
            self.changes.touched[stream] = None
        self.streams.clear()
        self._scheduler.clear()
        self._control.clear()
        self._pings.clear()
        self._own_ping = None

    # What goes out

    @property
    def has_control(self) -> bool:
        """Whether frames other than DATA wait."""
        return self.has_frames or bool(self._pings)

    @property
    def has_frames(self) -> bool:
        """Whether some of them are not mere PONGs."""
        return bool(self._control)

    @property
    def has_data(self) -> bool:
        """Whether a stream has something that its credit allows to send."""
        return self._scheduler.next() is not None

    @property
    def ready(self) -> int:
        """Bytes that the stream whose turn it is may send now."""
        stream = self._scheduler.next()
        return 0 if stream is None else stream.send.ready

    @property
    def queued(self) -> int:
        """Bytes that streams have queued."""
        return self._send_budget.queued

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, also not behind credit."""
        return not self.has_control and all(
            stream.send.queued == 0
            and stream.send.state not in {SendState.FINISHING, SendState.RESETTING}
            for stream in self.streams.values()
        )

    def fill(self, filling: Filling, data_budget: int) -> None:
        """Put frames into a batch: control first, then up to `data_budget` bytes of streams."""
        self._fill_control(filling)
        if self._control:
            return  # no room for the next one, which may be the OPEN or ACCEPT of what follows
        overtaken = False
        while data_budget > 0 and filling.room > FRAME_HEADER:
            stream = self._scheduler.next()
            if stream is None:
                break
            if self._scheduler.overtakes(stream):
                overtaken = True
            elif overtaken and stream.send.ready > LARGE:
                break
            most = min(filling.room - FRAME_HEADER, data_budget, self._scheduler.turn(stream))
            sent = self._fill_stream(filling, stream, most)
            if sent is None:
                break
            data_budget -= sent

    def _fill_control(self, filling: Filling) -> None:
        while self._pings and filling.room >= FRAME_HEADER + wire.MAX_PING:
            pong = Frame(FrameType.PONG, wire.SESSION_STREAM, payload=self._pings.popleft())
            self._add(filling, pong)
        if self._own_ping is not None and filling.room >= FRAME_HEADER + wire.MAX_PING:
            ping = Frame(FrameType.PING, wire.SESSION_STREAM, payload=self._own_ping)
            self._own_ping = None
            self._add(filling, ping)
        while self._control:
            frame = self._control[0]
            if FRAME_HEADER + len(frame.payload) > filling.room:
                break
            self._control.popleft()
            if frame.type == FrameType.CREDIT:
                stream = self.streams.get(frame.stream_id)
                if stream is None or stream.receive.peer_ended:
                    continue
                stream.credit_due = False
                frame.sequence = stream.receive.window.limit
            self._add(filling, frame)

    def _add(self, filling: Filling, frame: Frame) -> None:
        filling.add(wire.encode_frame(frame), length=FRAME_HEADER + len(frame.payload))

    def _fill_stream(self, filling: Filling, stream: Stream, most: int) -> int | None:
        """Add one frame of the stream: DATA, DATA with FIN, or RESET. None: no room for it."""
        send = stream.send
        if send.state is SendState.RESETTING and not (send.queued and send.limit > send.offset):
            ending = send.ending or Ending(Code.INTERNAL)
            reason = wire.encode_text(ending.reason, wire.MAX_REASON)
            if filling.room < FRAME_HEADER + len(reason):
                return None
            send.state = SendState.DONE
            self._add(
                filling,
                Frame(FrameType.RESET, stream.stream_id, send.offset, reason, code=ending.code),
            )
            self._settle(stream)
            return 0
        sequence = send.offset
        pieces, length = send.emit(most)
        fin = send.state is SendState.FINISHING and not send.queued
        header = wire.encode_frame_header(
            FrameType.DATA, stream.stream_id, sequence, length, wire.FLAG_FIN if fin else 0
        )
        filling.add(header, *pieces, length=FRAME_HEADER + length)
        self._scheduler.spend(stream, length + FRAME_HEADER)
        self.changes.touched[stream] = None
        if fin:
            send.state = SendState.DONE
            self._settle(stream)
        return length

    # What comes in

    def receive(self, frame: Frame, whole: int) -> None:
        """Take one frame, whose payload keeps `whole` bytes of memory. Raises ProtocolViolation."""
        kind = frame.type
        if kind == FrameType.DATA:
            self._receive_data(frame, whole)
        elif kind == FrameType.OPEN:
            self._receive_open(frame)
        elif kind in _STREAM_HANDLERS:
            stream = self._known(frame)
            if stream is not None:
                _STREAM_HANDLERS[kind](self, stream, frame)
        elif kind in _PINGS:
            self._receive_ping(frame)
        elif kind < wire.FIRST_IGNORABLE_TYPE:
            raise ProtocolViolation(f"a frame of unknown type {kind:#04x}")
        # behind a ring that is full the streams of both sides, all closed at once, queue as many
        if len(self._control) > wire.MAX_CONTROL_QUEUE + _MOST_OF_A_STREAM * len(self.streams):
            raise ProtocolViolation("a flood of frames that want answers")

    def _known(self, frame: Frame) -> Stream | None:
        """Return the frame's live stream; None for one that has ended."""
        stream = self.streams.get(frame.stream_id)
        if stream is None and not self._was_opened(frame.stream_id):
            raise ProtocolViolation(f"a frame for stream {frame.stream_id}, which nobody opened")
        return stream

    def _was_opened(self, stream_id: int) -> bool:
        if self._is_own(stream_id):
            return 0 < stream_id < self._next_id
        return 0 < stream_id <= self._last_peer_id

    def _is_own(self, stream_id: int) -> bool:
        return stream_id % 2 == (1 if self.role is Role.DIAL else 0)

    def _receive_data(self, frame: Frame, whole: int) -> None:
        stream = self._known(frame)
        if stream is None:
            return
        if stream.opened_here and not stream.accepted:
            raise ProtocolViolation("DATA of a stream before its ACCEPT")
        payload = frame.payload
        view = payload if isinstance(payload, memoryview) else memoryview(payload)
        stream.receive.receive(frame.sequence, view, bool(frame.flags & wire.FLAG_FIN), whole)
        self.changes.touched[stream] = None
        self._settle(stream)

    def _receive_open(self, frame: Frame) -> None:
        stream_id = frame.stream_id
        if stream_id == 0 or self._is_own(stream_id) or stream_id <= self._last_peer_id:
            raise ProtocolViolation(f"an OPEN of stream {stream_id}, out of order or not its own")
        if len(self.streams) - self._own_live >= self.max_streams + wire.MAX_PENDING_OPENS:
            raise ProtocolViolation("more streams than were allowed, refused ones not ended")
        target, originator = wire.decode_open(frame.payload)
        self._last_peer_id = stream_id
        stream = self._new_stream(stream_id, opened_here=False)
        stream.target, stream.originator = target, originator
        self._peer_live += 1
        self._peer_pending += 1
        if self._peer_live > self.max_streams or self._peer_pending > wire.MAX_PENDING_OPENS:
            self.refuse(stream, Ending(Code.LIMIT, "too many streams"))
        else:
            self.changes.incoming.append(stream)

    def refuse(self, stream: Stream, ending: Ending) -> None:
        """Answer the peer's OPEN with RESET and STOP."""
        if not (stream.lost or stream.accepted):
            stream.accepted = True
            self._peer_pending -= 1
            stream.send.clear()
        self.reset(stream, ending)
        self.stop(stream, ending)
        self.release(stream)

    def _receive_accept(self, stream: Stream, frame: Frame) -> None:
        if not stream.opened_here or stream.accepted:
            raise ProtocolViolation("an ACCEPT that nobody waits for")
        if len(frame.payload) > wire.MAX_BOUND_ADDRESS:
            raise ProtocolViolation("an ACCEPT with a bound address longer than its limit")
        self._answered(stream)
        stream.bound_address = bytes(frame.payload).decode("utf-8", "replace")
        self.changes.touched[stream] = None

    def _answered(self, stream: Stream) -> None:
        if stream.opened_here and not stream.accepted:
            stream.accepted = True
            self._unanswered -= 1

    def _receive_credit(self, stream: Stream, frame: Frame) -> None:
        if frame.payload:
            raise ProtocolViolation("a CREDIT with a payload")
        if stream.send.raise_limit(frame.sequence):
            self._activate(stream)

    def _receive_stop(self, stream: Stream, frame: Frame) -> None:
        stream.send.stopped(_ending_of(frame))
        self._activate(stream)
        self.changes.touched[stream] = None

    def _receive_reset(self, stream: Stream, frame: Frame) -> None:
        ending = _ending_of(frame)
        if frame.sequence != stream.receive.expected or stream.receive.peer_ended:
            raise ProtocolViolation("a RESET with a wrong final size, or after the end")
        stream.receive.reset(ending)
        if stream.opened_here and not stream.accepted:
            stream.refusal = ending
        self._answered(stream)
        self.changes.touched[stream] = None
        self._settle(stream)

    def _receive_ping(self, frame: Frame) -> None:
        if frame.stream_id != wire.SESSION_STREAM or len(frame.payload) > wire.MAX_PING:
            raise ProtocolViolation("a PING or PONG on a stream, or longer than its limit")
        payload = bytes(frame.payload)
        if frame.type == FrameType.PONG:
            self.changes.pongs.append(payload)
        elif len(self._pings) < wire.MAX_PENDING_PINGS:
            self._pings.append(payload)

    # Bookkeeping

    def _new_stream(self, stream_id: int, opened_here: bool) -> Stream:
        stream = Stream(
            stream_id,
            SendHalf(self.peer_initial_credit, self._send_budget),
            ReceiveHalf(ReceiveWindow(self._budget, self.initial_credit)),
            opened_here,
            self.epoch,
        )
        self.streams[stream_id] = stream
        self.opened += 1
        return stream

    def _settle(self, stream: Stream) -> None:
        """Forget a stream whose two directions are over."""
        if stream.ended and self.streams.pop(stream.stream_id, None) is not None:
            self._release_window(stream)
            if stream.opened_here:
                self._answered(stream)
                self._own_live -= 1
            self.changes.touched[stream] = None
            self._count_out(stream)

    @staticmethod
    def _release_window(stream: Stream) -> None:
        """Give back what the window grew, once nothing more comes and nothing is held."""
        if stream.receive.peer_ended and not stream.receive.buffered:
            stream.receive.window.release()

    def release(self, stream: Stream) -> None:
        """Note that the application holds the stream no more.

        Only then a stream of the peer stops to count: it could hold a window of bytes.
        """
        if not stream.released:
            stream.released = True
            self._count_out(stream)

    def _count_out(self, stream: Stream) -> None:
        if stream.ended and stream.released and not (stream.opened_here or stream.lost):
            self._peer_live -= 1


def _ending_of(frame: Frame) -> Ending:
    if len(frame.payload) > wire.MAX_REASON:
        raise ProtocolViolation("a reason that is longer than its limit")
    return Ending(Code.of(frame.code), bytes(frame.payload).decode("utf-8", "replace"))


_STREAM_HANDLERS: Final[dict[int, Callable[[Multiplexer, Stream, Frame], None]]] = {
    FrameType.ACCEPT: Multiplexer._receive_accept,  # noqa: SLF001
    FrameType.CREDIT: Multiplexer._receive_credit,  # noqa: SLF001
    FrameType.STOP: Multiplexer._receive_stop,  # noqa: SLF001
    FrameType.RESET: Multiplexer._receive_reset,  # noqa: SLF001
}
