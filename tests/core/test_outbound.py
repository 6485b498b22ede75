"""The own ring: positions, room, and what is kept."""

from __future__ import annotations

import pytest

from muxfs.core import wire
from muxfs.core.flight import Flight
from muxfs.core.outbound import LEAST_RETRY, LIGHT, SendRing
from muxfs.core.pacing import Pacer
from muxfs.core.wire import RING_OFFSET, ProtocolViolation

CAPACITY = wire.MIN_CAPACITY


def ring() -> SendRing:
    """Make an empty ring."""
    return SendRing(1, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH, Pacer())


def place(it: SendRing, stride: int = 64, now: float = 0.0, asks: bool = True) -> int:
    """Place a batch; return its position."""
    return it.place([bytes(stride)], stride, now, asks).position


def rewrites(it: SendRing) -> list[int]:
    """Take what is to be written again."""
    positions = []
    while (batch := it.next_rewrite(Flight())) is not None:
        positions.append(batch.position)
    return positions


def test_positions_follow_each_other_and_wrap_in_the_file_only() -> None:
    it = ring()
    place(it, CAPACITY - 64)
    it.acknowledge(CAPACITY - 64, 0.0)
    assert place(it) == CAPACITY - 64
    last = it.place([b""], 128, 0.0, True)
    assert last.position == CAPACITY
    assert it.file_offset(last) == RING_OFFSET


def test_room_ends_with_the_ring_and_with_what_is_in_flight() -> None:
    it = ring()
    assert it.room == CAPACITY
    place(it, 640)
    assert (it.room, it.in_flight) == (CAPACITY - 640, 640)
    place(it, CAPACITY - 640)
    assert it.room == 0
    it.acknowledge(640, 0.0)
    assert it.room == 640


def test_a_probe_waits_for_heavy_batches_only() -> None:
    """Credits may go all the time: data must not wait until there are none."""
    it = ring()
    it.pacer.probing = True
    place(it)
    assert it.allowance > 0
    heavy = it.place([bytes(2 * LIGHT)], 2 * LIGHT, 0.0, True)
    assert heavy.sent.alone
    assert it.allowance == 0
    behind = it.place([bytes(64)], 64, 0.0, True)
    assert not behind.sent.alone
    it.acknowledge(heavy.end, 0.0)
    assert it.allowance > 0


def test_acks_are_cumulative_and_only_grow() -> None:
    it = ring()
    for _ in range(3):
        place(it)
    assert it.acknowledge(128, 1.0) == 128
    assert it.acknowledge(64, 1.0) == 0
    assert it.acknowledge(128, 1.0) == 0
    assert it.acknowledged == 128
    with pytest.raises(ProtocolViolation, match="never written"):
        it.acknowledge(193, 1.0)


def test_what_is_not_acknowledged_is_written_again_unchanged() -> None:
    it = ring()
    batches = [it.place([bytes([number]) * 64], 64, 0.0, True) for number in range(3)]
    it.acknowledge(64, 0.0)
    it.rewrite_all()
    assert it.next_rewrite(Flight()) is batches[1]
    it.acknowledge(192, 0.0)
    assert it.next_rewrite(Flight()) is None
    assert it.rewritten == 1


def test_acks_that_stand_still_are_answered_with_everything() -> None:
    it = ring()
    place(it, now=10.0)
    place(it, now=10.5)
    assert it.retry_at == 10.0 + LEAST_RETRY
    it.handle_timeout(11.9)
    assert rewrites(it) == []
    it.handle_timeout(12.0)
    assert rewrites(it) == [0, 64]
    assert it.retry_at == 12.0 + 2 * LEAST_RETRY
    it.acknowledge(64, 13.0)
    assert it.retry_at == 13.0 + 2 * it.pacer.round_trip == 19.0


def test_acks_alone_are_not_waited_for_but_written_again_with_the_others() -> None:
    it = ring()
    place(it, asks=False)
    assert not it.awaits_ack
    assert it.retry_at == float("inf")
    place(it)
    assert it.awaits_ack
    it.handle_timeout(100.0)
    assert rewrites(it) == [0, 64]


def test_the_wait_for_an_ack_begins_when_one_is_asked_for() -> None:
    """Not with what nobody was asked to acknowledge: a keystroke after a pause went out twice."""
    it = ring()
    place(it, now=0.0)
    place(it, now=1.0, asks=False)
    it.acknowledge(64, 1.0)
    place(it, now=50.0)
    assert it.retry_at == 50.0 + LEAST_RETRY
    place(it, now=51.0)
    assert it.retry_at == 50.0 + LEAST_RETRY


def test_a_pad_leads_to_the_start_of_the_ring() -> None:
    it = ring()
    place(it, CAPACITY - 128)
    buffers, stride = it.encode_pad(0)
    assert stride == 128
    header = wire.decode_batch_header(b"".join(buffers), 1, CAPACITY - 128)
    assert header is not None
    assert header.pad


def test_a_batch_is_padded_to_the_next_position() -> None:
    buffers, stride = ring().encode(0, [bytes(17)], 1)
    assert (sum(map(len, buffers)), stride) == (128, 128)
