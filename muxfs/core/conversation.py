"""The session with one incarnation of the peer: one epoch's rings, streams, acks and pings.

It is made when the peer is met and dropped when it is lost. What outlives it (the own
head, births, closing) is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.flight import Flight, Write
from muxfs.core.inbound import Batch, Piece, ReadTimes, ReceiveRing
from muxfs.core.multiplexer import Changes, Filling, Multiplexer
from muxfs.core.outbound import SendRing
from muxfs.core.pacing import Pacer
from muxfs.core.proof import Blocks
from muxfs.core.wire import Birth, Buffer, ProtocolViolation, Role

ACK_DELAY: Final = 0.1
"""Seconds that an ack waits for a batch to ride on."""

ACK_BYTES: Final = 64 << 10
"""Bytes that are acknowledged at once: a stream that begins has no more than that on its way, and
with 256 KiB its first round trips took 35 to 76 ms in place of 12 (NFS v4.2, lab)."""

LEAST_DATA: Final = 64 << 10
"""Bytes of allowance to wait for while more is queued: no silly small batches."""

ON_THEIR_WAY: Final = 4
"""Batches of bulk that what may be in flight is divided into: one is written while others are
read, acknowledged, and their acks read (NFS v4.2: 62 MB/s, with two 49; tmpfs: the same). But
two as long as they are smaller than `LARGE_BATCH`, since small ones cost as much: what begins
would be slower."""

LARGE_BATCH: Final = 512 << 10
"""Bytes of a batch from which on it is not made larger, but travels with more others."""

_SMALL_ROOM: Final = 2048
"""Less ring than this before its end is padded if a control frame does not fit."""

_NEVER: Final = float("inf")


@attrs.define
class Conversation:
    """What both sides say to each other in one epoch."""

    out: SendRing
    inbound: ReceiveRing
    streams: Multiplexer
    pacer: Pacer
    flight: Flight
    """The writes under way: also those of earlier epochs, which may still reach the file."""

    notice: bool = False
    """Whether the last batch of the peer asked to look at its status."""

    _ack_owed: bool = False
    _ack_at: float = _NEVER
    _ack_sent: int = 0
    _waits_until: float = _NEVER
    _acked: bool = False
    """Whether an ack was found in the ring since the last poll began."""

    _pings: dict[bytes, float] = attrs.field(factory=dict)
    _ping_at: float = 0.0

    @classmethod
    def begin(
        cls,
        own: Birth,
        peer: Birth,
        epoch: int,
        blocks: Blocks,
        flight: Flight,
        read_times: ReadTimes,
        changes: Changes,
    ) -> Conversation:
        """Begin at position 0 of both rings, with what both births declare.

        Raises ProtocolViolation if there can be no common key.
        """
        mine, its = blocks.batches(own, peer)
        pacer = Pacer()
        most = min(own.max_batch, peer.max_batch, own.capacity // 4)
        return cls(
            SendRing(
                wire.batch_epoch(epoch, own.role),
                wire.RING_OFFSET,
                own.capacity,
                most,
                pacer,
                proof=mine,
            ),
            ReceiveRing(
                wire.batch_epoch(epoch, peer.role),
                peer.ring_offset,
                peer.capacity,
                own.max_batch,
                proof=its,
                times=read_times,
            ),
            Multiplexer(
                own.role,
                peer.max_streams,
                peer.initial_credit,
                own.max_streams,
                own.initial_credit,
                changes,
                epoch=epoch,
            ),
            pacer,
            flight,
        )

    @property
    def role(self) -> Role:
        """The own role."""
        return self.streams.role

    @property
    def flushed(self) -> bool:
        """Whether all that streams have queued was written and acknowledged."""
        return self.streams.idle and not self.out.awaits_ack

    @property
    def round_trip(self) -> float:
        """Seconds from a credit to the bytes that it allows, at the least.

        A credit is small, but a large batch is written as a whole and then read as a whole.
        """
        return self.pacer.round_trip + 2 * self.inbound.times.longest

    # Writing

    @property
    def room(self) -> int:
        """Bytes that the next batch may take: in the ring, and clear of writes under way."""
        room = min(self.out.room, self.out.max_batch)
        return self.flight.clear(self.out.next_offset, room) if self.flight else room

    def next_write(self, now: float) -> Write | None:
        """Return the next batch to write, an old one again or a new one."""
        flight, out = self.flight, self.out
        self._waits_until = _NEVER
        if flight.full:
            return None
        again = out.next_rewrite(flight)
        if again is not None:
            return Write(out.file_offset(again), again.buffers, repeats=True)
        ack_due = self._ack_owed and now >= self._ack_at
        if not (ack_due or self._has_work):
            return None
        if not self._may_begin(now):
            self._waits_until = flight.small_at
            return None
        room = self.room
        return self._write_batch(room, now, ack_due) if room >= wire.ALIGNMENT else None

    def _may_begin(self, now: float) -> bool:
        """Whether a batch is worth a write of its own beside those under way."""
        if now >= self.flight.small_at:
            return True
        return self._may_send_data and self.streams.queued >= LEAST_DATA

    def _write_batch(self, room: int, now: float, ack_due: bool) -> Write | None:
        out = self.out
        allowed = self.pacer.allowance
        most = max(0, min(out.allowance, allowed // 2, max(allowed // ON_THEIR_WAY, LARGE_BATCH)))
        filling = Filling(self._whole_pages(room, most) - out.proof.overhead)
        self.streams.fill(filling, most)
        ack = self.inbound.position
        if filling.count == 0 and self._has_work and self._at_end_of_ring:
            return self._place(*out.encode_pad(ack), now, asks_for_ack=False)
        if filling.count == 0 and not ack_due:
            return None
        buffers, stride = out.encode(ack, filling.parts, filling.count)
        return self._place(buffers, stride, now, filling.asks_for_ack)

    def _whole_pages(self, room: int, most: int) -> int:
        """Return how much room a batch should use: of much data as ends with a page.

        Writes that share a page wait for each other, and a MiB across a border of pages is
        two operations of a file server and a commit instead of one.
        """
        length = min(room, most)
        if length < LEAST_DATA or self.streams.ready < length:
            return room
        return length - (self.out.position + length) % wire.PAGE

    def write_notice(self, now: float) -> Write | None:
        """Return the batch that has the peer look at the status; None where it has no room."""
        if self.room < wire.ALIGNMENT:
            return None
        return self._place(*self.out.encode_notice(self.inbound.position), now, asks_for_ack=False)

    def _place(self, buffers: list[Buffer], stride: int, now: float, asks_for_ack: bool) -> Write:
        batch = self.out.place(buffers, stride, now, asks_for_ack)
        self.ack_told()
        return Write(self.out.file_offset(batch), batch.buffers, asks_for_ack=asks_for_ack)

    @property
    def _has_work(self) -> bool:
        return self.streams.has_control or self._may_send_data

    @property
    def _may_send_data(self) -> bool:
        # a small allowance is worth a batch only if nothing is on its way that will enlarge it
        enough = self.out.allowance >= min(LEAST_DATA, self.pacer.allowance)
        return enough and self.streams.has_data

    @property
    def _at_end_of_ring(self) -> bool:
        out = self.out
        return out.capacity - out.position % out.capacity <= min(out.room, _SMALL_ROOM)

    def wants_write(self, now: float) -> bool:
        """Whether `next_write` would probably give something now."""
        return now >= self._ack_at or self._has_work or self.out.has_rewrites

    # Acks

    def owe_ack(self, now: float) -> None:
        """Have an ack go out within `ACK_DELAY`, with what waits for a batch."""
        self._ack_owed = True
        self._ack_at = min(self._ack_at, now + ACK_DELAY)

    def ack_told(self) -> None:
        """Note that the read position goes out."""
        self._ack_owed = False
        self._ack_at = _NEVER
        self._ack_sent = self.inbound.position

    def status_told(self) -> None:
        """Note that a status goes out.

        An ack that only a beat has told is seen so late that the peer may write all again.
        """
        if self.room < wire.ALIGNMENT:
            self.ack_told()

    def ack_needs_status(self, now: float) -> bool:
        """Whether an ack is due for which the ring has no room."""
        return self._ack_owed and now >= self._ack_at and self.room < wire.ALIGNMENT

    def _schedule_ack(self, now: float) -> None:
        if not self._ack_owed:
            return
        if self.inbound.position - self._ack_sent >= min(ACK_BYTES, self.inbound.capacity // 8):
            self._ack_at = now
        else:
            self.owe_ack(now)

    # Reading

    @property
    def awaits_room(self) -> bool:
        """Whether the ring may be too full for a control frame."""
        return self.out.capacity - self.out.in_flight < _SMALL_ROOM

    def begin_poll(self) -> bool:
        """Return whether a look at the peer's status is worth it at this poll.

        A full ring waits for an ack, which comes in the status if the peer's ring is full, too.
        """
        acked, self._acked = self._acked, False
        return self.notice or (self.awaits_room and not acked)

    def receive(self, piece: Piece, data: bytes, now: float) -> bool:
        """Take what was read of a piece of the peer's ring; whether a new batch was in it.

        Raises ProtocolViolation.
        """
        before = self.inbound.position
        for batch in self.inbound.receive(piece, data):
            self._receive_batch(batch, now)
        if self.inbound.position == before:
            return False
        self._schedule_ack(now)
        return True

    def _receive_batch(self, batch: Batch, now: float) -> None:
        header = batch.header
        if self.out.acknowledge(header.ack, now):
            self._acked = True
        if header.pad and (len(batch.body) or header.frame_count):
            raise ProtocolViolation("a PAD batch with a body")
        self.notice = header.notice
        if header.frame_count:
            self._ack_owed = True
        for frame in wire.decode_frames(batch.body, header.frame_count):
            self.streams.receive(frame, batch.held)
        pongs = self.streams.changes.pongs
        for payload in pongs:
            sent_at = self._pings.pop(payload, None)
            if sent_at is not None:
                self.pacer.answered(now - sent_at)
        pongs.clear()

    # Time

    def next_timeout(self, silent: bool) -> float:
        """When a write or `handle_timeout` is due; not what only the end of a write brings."""
        if self.room >= wire.ALIGNMENT:
            due = max(self._ack_at, self.flight.small_at)
        else:
            due = _NEVER if self.flight.in_head else self._ack_at
        due = min(due, self._waits_until)
        return due if silent else min(due, self.out.retry_at)

    def measure(self, now: float, pause: float, random_bytes: Callable[[int], bytes]) -> None:
        """Send a PING beside frames of streams: alone, it would have both sides poll often again.

        Not beside a PONG either: where a round trip takes a heartbeat, each would bring the next.
        """
        if now < self._ping_at or not (self.streams.has_frames or self._may_send_data):
            return
        payload = random_bytes(8)
        self._pings[payload] = now  # several: a round trip may be longer than a heartbeat
        if len(self._pings) > wire.MAX_PENDING_PINGS:
            del self._pings[next(iter(self._pings))]
        self.streams.ping(payload)
        self._ping_at = now + pause
