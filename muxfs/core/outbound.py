"""The own ring as its writer sees it: where batches go, and what must be kept.

Rule 1: a batch, once placed, is kept unchanged until it is acknowledged.
Rule 2: `written - acknowledged <= capacity`, always.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.flight import Flight
from muxfs.core.pacing import Pacer, Sending
from muxfs.core.wire import BatchProof, Buffer, ProtocolViolation

LEAST_RETRY: Final = 2.0
"""Seconds without progress before batches are written again (twice that each time)."""

MOST_RETRY: Final = 60.0

LIGHT: Final = wire.PAGE
"""Bytes up to which a batch delays none that follows it: those of acks, credits, keystrokes."""


@attrs.define
class SentBatch:
    """A batch that the peer has not acknowledged."""

    position: int
    stride: int
    buffers: list[Buffer]
    sent: Sending
    asks_for_ack: bool

    @property
    def end(self) -> int:
        """Position of the next batch."""
        return self.position + self.stride


@attrs.define
class SendRing:
    """Places one epoch's batches in the own ring."""

    epoch: int
    ring_offset: int
    capacity: int
    max_batch: int
    pacer: Pacer
    proof: BatchProof = attrs.field(default=wire.by_checksum, kw_only=True)
    position: int = 0
    acknowledged: int = 0
    rewritten: int = 0
    _kept: deque[SentBatch] = attrs.field(factory=deque)
    _rewrites: deque[SentBatch] = attrs.field(factory=deque)
    _asking: int = 0
    _heavy: int = 0
    """Batches on their way that are not light."""

    _progress_at: float = 0.0
    _retry_after: float = LEAST_RETRY

    @property
    def in_flight(self) -> int:
        """Bytes that are not acknowledged."""
        return self.position - self.acknowledged

    @property
    def room(self) -> int:
        """Bytes that the next batch may take, padding included."""
        here = self.capacity - self.position % self.capacity
        return min(here, self.capacity - self.in_flight)

    @property
    def allowance(self) -> int:
        """Bytes of streams that may be added to those in flight."""
        if self.pacer.probing and self._heavy:
            return 0
        return self.pacer.allowance - self.in_flight

    @property
    def awaits_ack(self) -> bool:
        """Whether something is kept that the peer is asked to acknowledge."""
        return self._asking > 0

    def place(
        self, buffers: list[Buffer], stride: int, now: float, asks_for_ack: bool
    ) -> SentBatch:
        """Give a batch its position; it must be written there."""
        sent = self.pacer.send(stride, now, alone=asks_for_ack and not self._heavy)
        batch = SentBatch(self.position, stride, buffers, sent, asks_for_ack)
        # acks stand still only while one is asked for: what carries but an ack may wait for long
        if asks_for_ack and not self._asking:
            self._progress_at = now
        self._kept.append(batch)
        self._asking += asks_for_ack
        self._heavy += stride > LIGHT
        self.position += stride
        return batch

    @property
    def next_offset(self) -> int:
        """Where in the file the next batch will stand."""
        return self.ring_offset + self.position % self.capacity

    def file_offset(self, batch: SentBatch) -> int:
        """Where in the file the batch stands."""
        return self.ring_offset + batch.position % self.capacity

    def acknowledge(self, ack: int, now: float) -> int:
        """Take the peer's read position; return how many bytes it freed.

        Raises ProtocolViolation for one beyond what was written.
        """
        if ack > self.position:
            raise ProtocolViolation("an acknowledgement of bytes that were never written")
        freed = ack - self.acknowledged
        if freed <= 0:
            return 0
        while self._kept and self._kept[0].end <= ack:
            batch = self._kept.popleft()
            self._asking -= batch.asks_for_ack
            self._heavy -= batch.stride > LIGHT
            self.pacer.acknowledged(batch.sent, now)
        self.acknowledged = ack
        self._progress_at = now
        self._retry_after = LEAST_RETRY
        return freed

    # Repair

    def rewrite_all(self) -> None:
        """Write all that is kept again: the file lost it, or may have."""
        self._rewrites = deque(self._kept)

    def next_rewrite(self, flight: Flight) -> SentBatch | None:
        """Return the next batch to write again, of those that are not being written now."""
        for _ in range(len(self._rewrites)):
            batch = self._rewrites.popleft()
            if batch.end <= self.acknowledged:
                continue
            if flight.clear(self.file_offset(batch), batch.stride) == batch.stride:
                self.rewritten += 1
                return batch
            self._rewrites.append(batch)
        return None

    @property
    def has_rewrites(self) -> bool:
        """Whether something is to be written again that is not acknowledged."""
        return any(batch.end > self.acknowledged for batch in self._rewrites)

    @property
    def retry_at(self) -> float:
        """When to write everything again if no ack arrives: acks stand still (section 8)."""
        if not self.awaits_ack:
            return float("inf")
        return self._progress_at + max(self._retry_after, 2 * self.pacer.round_trip)

    def handle_timeout(self, now: float) -> None:
        """Write again what is kept if acks stood still for too long."""
        if now >= self.retry_at:
            self._retry_after = min(MOST_RETRY, 2 * self._retry_after)
            self._progress_at = now
            self.rewrite_all()

    # Encoding

    def encode_pad(self, ack: int) -> tuple[list[Buffer], int]:
        """Encode the batch that leads to the start of the ring: buffers and stride."""
        stride = self.capacity - self.position % self.capacity
        return wire.encode_pad(self.epoch, self.position, ack, self.proof), stride

    def encode_notice(self, ack: int) -> tuple[list[Buffer], int]:
        """Encode the batch that makes the reader look at the status: buffers and stride."""
        return wire.encode_notice(self.epoch, self.position, ack, self.proof), wire.ALIGNMENT

    def encode(self, ack: int, parts: list[Buffer], count: int) -> tuple[list[Buffer], int]:
        """Encode a batch of frames: buffers and stride."""
        buffers = wire.encode_batch(self.epoch, self.position, ack, parts, count, self.proof)
        return buffers, wire.align(self.proof.overhead + sum(map(len, parts)))
