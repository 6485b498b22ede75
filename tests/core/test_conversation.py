"""The session with one peer: what a batch leaves behind."""

from __future__ import annotations

import pytest

from muxfs.core import wire
from muxfs.core.conversation import Conversation
from muxfs.core.flight import Flight, Write
from muxfs.core.inbound import PIECE, ReadTimes
from muxfs.core.multiplexer import Changes
from muxfs.core.proof import CHECKSUM_BLOCKS
from muxfs.core.wire import (
    ALIGNMENT,
    PAGE,
    RING_OFFSET,
    Birth,
    Frame,
    FrameType,
    Incarnation,
    ProtocolViolation,
    Role,
)

CREDIT = 1 << 20


def pair() -> tuple[Conversation, Conversation]:
    dial, listen = (Birth(role, Incarnation(1, bytes(16)), initial_credit=CREDIT) for role in Role)
    near, far = (
        Conversation.begin(own, peer, 7, CHECKSUM_BLOCKS, Flight(), ReadTimes(), Changes())
        for own, peer in ((dial, listen), (listen, dial))
    )
    return near, far


def test_small_frames_keep_no_large_reads_in_memory() -> None:
    """Also where the first of several reads is a short one, and ends last."""
    near, far = pair()
    start = near.out.capacity - PAGE
    near.out.position = near.out.acknowledged = far.inbound.position = start
    file = bytearray(RING_OFFSET + near.out.capacity)
    sent = near.streams.open("target")
    for _ in range(20):
        near.streams.send(sent, bytes(3000))
        write = near.next_write(0.0)
        assert write is not None
        file[write.offset : write.offset + write.length] = b"".join(write.buffers)
    inbound = far.inbound
    inbound.speculate = True
    inbound.times.add(PAGE, 0.01, 0.0)  # a round trip in which much is moved
    inbound.times.add(PIECE, 0.011, 0.0)
    inbound._guess = inbound._wanted = PIECE
    pieces = [inbound.first_piece(), inbound.next_piece()]
    for piece in reversed(pieces):
        assert piece is not None
        offset = inbound.file_offset(piece.position)
        far.receive(piece, bytes(file[offset : offset + piece.length]), 0.0)
    (stream,) = far.streams.changes.incoming
    assert pieces[0] is not None
    assert pieces[0].length == PAGE
    assert stream.receive.buffered == 20 * 3000
    queue = stream.receive._queue
    objects = {id(p.obj): memoryview(p.obj).nbytes for p in queue if isinstance(p, memoryview)}
    assert sum(objects.values()) < 4 * stream.receive.buffered


def test_batches_of_a_bulk_stream_end_with_a_page() -> None:
    """Else consecutive writes wait for each other, where both have some of one page."""
    near, _ = pair()
    sent = near.streams.open("target")
    for size, ends_with_page in ((CREDIT // 2, True), (100, False)):
        near.streams.send(sent, bytes(size))
        write = near.next_write(0.0)
        assert write is not None
        assert write.length > size // 3
        assert (write.offset + write.length) % ALIGNMENT == 0
        assert ((write.offset + write.length) % PAGE == 0) is ends_with_page
        while near.next_write(0.0) is not None:
            pass
        near.flight._writes.clear()
        near.out.acknowledge(near.out.position, 0.0)


def test_no_batch_begins_over_a_write_that_hangs_since_an_earlier_epoch() -> None:
    """It may reach the file at last, and would destroy what was written there meanwhile."""
    near, _ = pair()
    sent = near.streams.open("target")
    near.streams.send(sent, bytes(CREDIT))
    late = near.flight.begin(Write(RING_OFFSET + 2 * PAGE, [bytes(100)]), 0.0)
    first = near.next_write(0.0)
    assert first is not None
    assert first.offset + first.length <= late.offset
    near.flight.begin(first, 0.0)
    while (following := near.next_write(9.0)) is not None:  # what little room is left before it
        assert following.offset + following.length <= late.offset
        near.flight.begin(following, 9.0)
    assert near.room < ALIGNMENT
    assert near.write_notice(9.0) is None
    near.flight.end(late, 9.0)
    after = near.next_write(99.0)
    assert after is not None
    assert after.offset + after.length > late.offset


@pytest.mark.parametrize("frames", [0, 1])
def test_a_pad_with_a_body_is_a_violation(frames: int) -> None:
    near, far = pair()
    body = wire.encode_frame(Frame(FrameType.PING, 0)) if frames else b"body"
    pad = wire._batch(wire.BATCH_PAD, near.out.epoch, 0, 0, [body], frames, wire.by_checksum)
    with pytest.raises(ProtocolViolation, match="PAD"):
        far.receive(far.inbound.first_piece(), b"".join(pad), 0.0)
