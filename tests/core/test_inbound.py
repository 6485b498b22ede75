"""The peer's ring: what is there, what is not there yet."""

from __future__ import annotations

from muxfs.core import wire
from muxfs.core.flight import Flight
from muxfs.core.inbound import LARGE_READ, MISSES, ReceiveRing
from muxfs.core.outbound import SendRing
from muxfs.core.pacing import Pacer
from muxfs.core.wire import PAGE, RING_OFFSET

CAPACITY = wire.MIN_CAPACITY
EPOCH = 7


class Ring:
    """Both ends of a ring, and the bytes between them."""

    def __init__(self, speculate: bool = False, max_batch: int = wire.MIN_MAX_BATCH) -> None:
        self.out = SendRing(EPOCH, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH, Pacer())
        self.inbound = ReceiveRing(EPOCH, RING_OFFSET, CAPACITY, max_batch, speculate=speculate)
        self.file = bytearray(RING_OFFSET + CAPACITY)

    def write(self, length: int, torn: bool = False) -> bytes:
        """Write a batch with one frame that has `length` bytes in all."""
        payload = bytes(range(256)) * (length // 256 + 1)
        frame = wire.encode_frame(wire.Frame(0x80, 0, payload=payload[: length - 20]))
        self.put(*self.out.encode(0, [frame], 1), torn=torn)
        return frame

    def put(self, buffers: list[wire.Buffer], stride: int, torn: bool = False) -> None:
        """Place an encoded batch, and all but its last byte, if torn."""
        batch = self.out.place(buffers, stride, 0.0, True)
        data = b"".join(buffers)
        at = self.out.file_offset(batch)
        self.file[at : at + len(data)] = data
        if torn:
            self.file[at + len(data) - 1 - 40] ^= 1

    def read(self) -> list[bytes]:
        """Read once; return the bodies of the batches that were new."""
        offset, length = self.inbound.extent
        data = bytes(self.file[offset : offset + length])
        return [bytes(batch.body) for batch in self.inbound.receive(data)]

    def read_all(self) -> list[bytes]:
        """Read until there is nothing more."""
        found: list[bytes] = []
        while new := self.read() or (self.inbound.incomplete and [b""]):
            found += [body for body in new if body]
        return found


def test_nothing_is_there_yet() -> None:
    ring = Ring()
    assert ring.read() == []
    assert ring.inbound.extent == (RING_OFFSET, PAGE)


def test_batches_come_in_order() -> None:
    ring = Ring()
    frames = [ring.write(100), ring.write(200), ring.write(300)]
    assert ring.read() == frames
    assert ring.inbound.position == ring.out.position
    assert ring.inbound.extent[0] == RING_OFFSET + ring.out.position


def test_a_batch_that_is_longer_than_the_probe() -> None:
    ring = Ring()
    frame = ring.write(50_000)
    assert ring.read() == []
    assert ring.inbound.incomplete
    assert ring.read() == [frame]
    assert not ring.inbound.incomplete


def test_a_torn_batch_is_looked_at_again() -> None:
    ring = Ring()
    frame = ring.write(300, torn=True)
    assert ring.read() == []
    assert ring.inbound.torn == 1
    assert not ring.inbound.incomplete
    ring.file[RING_OFFSET : RING_OFFSET + 348] = b"".join(ring.out.encode(0, [frame], 1)[0])[:348]
    ring.out.rewrite_all()
    again = ring.out.next_rewrite(Flight())
    assert again is not None
    ring.file[RING_OFFSET : RING_OFFSET + again.stride] = b"".join(again.buffers)
    assert ring.read() == [frame]


def test_what_an_earlier_lap_or_epoch_left_is_not_there() -> None:
    ring = Ring()
    ring.write(100)
    other = ReceiveRing(EPOCH + 1, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH)
    later = ReceiveRing(EPOCH, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH, position=CAPACITY)
    for reader in (other, later):
        data = bytes(ring.file[reader.extent[0] : reader.extent[0] + PAGE])
        assert list(reader.receive(data)) == []
        assert reader.position == later.position * (reader is later)


def test_a_pad_leads_to_the_start() -> None:
    ring = Ring()
    while CAPACITY - ring.out.position > 60_000:
        ring.write(60_000)
        ring.read_all()
        ring.out.acknowledge(ring.inbound.position, 0.0)
    ring.put(*ring.out.encode_pad(0))
    ring.out.position = CAPACITY
    frame = ring.write(1000)
    assert ring.read_all() == [frame]
    assert ring.inbound.position == CAPACITY + wire.align(1048)


def test_nothing_longer_than_the_limit_or_across_the_end() -> None:
    ring = Ring(max_batch=1000)
    ring.write(2000)
    assert ring.read() == []
    assert not ring.inbound.incomplete
    across = wire.encode_batch(EPOCH, CAPACITY - 64, 0, [bytes(100)], 0)
    reader = ReceiveRing(EPOCH, RING_OFFSET, CAPACITY, 1000, position=CAPACITY - 64)
    assert reader.extent == (RING_OFFSET + CAPACITY - 64, 64)
    assert list(reader.receive(b"".join(across))) == []


def test_a_file_that_is_too_short_is_not_read_hot() -> None:
    ring = Ring()
    ring.write(50_000)
    del ring.file[RING_OFFSET + 10_000 :]
    assert ring.read() == []
    assert ring.read() == []
    assert not ring.inbound.incomplete


def test_reads_grow_where_a_read_is_a_round_trip() -> None:
    ring = Ring(speculate=True)
    for _ in range(3):
        ring.write(1000)
    ring.read_all()
    for _ in range(MISSES):
        ring.read()
    assert ring.inbound.extent[1] == PAGE
    for _ in range(40):
        ring.write(1000)
    lengths = []
    while ring.read():
        lengths.append(ring.inbound.extent[1])
    assert PAGE < max(lengths) <= LARGE_READ
    ring.read()
    assert ring.inbound.extent[1] == PAGE


def test_marker() -> None:
    ring = Ring()
    ring.write(100)
    at = ring.inbound.extent[0] + wire.MARKER_OFFSET
    marker = ring.inbound.marker
    assert ring.file[at : at + len(marker)] == marker
