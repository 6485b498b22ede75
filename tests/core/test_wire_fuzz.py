"""Decoders given anything: they end as section 12 says, and in no other way.

Mutated blocks get a right checksum again, for otherwise nothing behind the
checksum would ever be reached.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muxfs.core import wire
from muxfs.core.engine import Engine, EngineConfig
from muxfs.core.inbound import ReceiveRing
from muxfs.core.link import first_generation
from muxfs.core.multiplexer import Multiplexer
from muxfs.core.wire import (
    MAX_SEQUENCE,
    PAGE,
    Birth,
    Code,
    Frame,
    FrameType,
    Incarnation,
    IncompatibleVersion,
    ProtocolViolation,
    Role,
    Status,
)
from tests.vectors import encoder, expand, load

fuzz = settings(max_examples=250, deadline=None)

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
SEQUENCES = st.integers(0, MAX_SEQUENCE)
ROOM = PAGE - wire.BIRTH_FIXED - wire.CHECKSUM_LENGTH

incarnations = st.builds(
    Incarnation, st.integers(1, MAX_SEQUENCE), st.binary(min_size=16, max_size=16)
)
items = st.lists(st.tuples(U16, st.binary(max_size=300)), max_size=8).map(tuple)
births = st.builds(
    Birth,
    role=st.sampled_from(Role),
    incarnation=incarnations,
    capacity=st.integers(wire.MIN_CAPACITY // PAGE, wire.MAX_CAPACITY // PAGE).map(PAGE.__mul__),
    ring_offset=st.integers(wire.RING_OFFSET // PAGE, wire.MAX_RING_OFFSET // PAGE).map(
        PAGE.__mul__
    ),
    max_batch=st.integers(wire.MIN_MAX_BATCH, wire.MAX_MAX_BATCH),
    max_streams=U32,
    initial_credit=SEQUENCES,
    features_offered=U64,
    features_required=U64,
    heartbeat=st.integers(1, wire.MAX_HEARTBEAT_MS),
    peer_timeout=st.just(0) | st.integers(wire.LEAST_BEATS * wire.MAX_HEARTBEAT_MS, 2**32 - 1),
    version_minor=st.integers(0, 255),
    items=items,
)
statuses = st.builds(
    Status,
    incarnation=incarnations,
    echo=st.none() | incarnations,
    beat=SEQUENCES,
    write_position=SEQUENCES,
    read_position=SEQUENCES,
    closed=st.booleans(),
    code=st.sampled_from(Code),
    items=items,
)
frames = st.builds(
    Frame,
    type=st.integers(0, 255),
    stream_id=U32,
    sequence=U64,
    payload=st.binary(max_size=200),
    flags=st.integers(0, 255),
    code=U16,
)
frame_lists = st.lists(frames, max_size=6)


def body_of(listed: list[Frame]) -> bytes:
    return b"".join(map(wire.encode_frame, listed))


# Round trips


@fuzz
@given(births, st.binary(max_size=64))
def test_birth_round_trip(birth: Birth, after: bytes) -> None:
    assert wire.decode_birth(wire.encode_birth(birth) + after) == birth


@fuzz
@given(statuses, st.binary(max_size=64))
def test_status_round_trip(status: Status, after: bytes) -> None:
    assert wire.decode_status(wire.encode_status(status) + after) == status


@settings(fuzz, max_examples=50)
@given(incarnations, st.lists(st.tuples(U16, st.binary(max_size=5000)), max_size=8).map(tuple))
@example(Incarnation(1, bytes(16)), ((1, bytes(ROOM - 4)),))
@example(Incarnation(1, bytes(16)), ((1, bytes(ROOM - 3)),))
@example(Incarnation(1, bytes(16)), ((1, bytes(ROOM - 8)), (2, b"x")))
def test_items_that_do_not_fit(incarnation: Incarnation, given_items: wire.Items) -> None:
    block = wire.encode_birth(Birth(Role.DIAL, incarnation, items=given_items))
    assert len(block) <= PAGE
    decoded = wire.decode_birth(block)
    assert decoded
    assert decoded.items == given_items[: len(decoded.items)]


@fuzz
@given(frame_lists, U64, st.integers(0, 1000).map(wire.ALIGNMENT.__mul__), SEQUENCES)
def test_batch_round_trip(listed: list[Frame], epoch: int, position: int, ack: int) -> None:
    parts = [wire.encode_frame(frame) for frame in listed]
    data = b"".join(wire.encode_batch(epoch, position, ack, parts, len(parts)))
    ring = ReceiveRing(epoch, wire.RING_OFFSET, wire.MIN_CAPACITY, wire.MIN_MAX_BATCH, position)
    (batch,) = ring.receive(ring.first_piece(), data)
    assert (batch.header.ack, batch.header.pad, batch.header.notice) == (ack, False, False)
    assert ring.position == position + len(data)
    assert list(wire.decode_frames(batch.body, batch.header.frame_count)) == listed


@fuzz
@given(st.text(max_size=300), st.text(max_size=300))
def test_open_round_trip(target: str, originator: str) -> None:
    decoded = wire.decode_open(wire.encode_open(target, originator))
    assert decoded[0] == target
    assert originator.startswith(decoded[1])
    assert len(decoded[1].encode()) > wire.MAX_ORIGINATOR - 4 or decoded[1] == originator


@fuzz
@given(st.text(st.characters(), max_size=100), st.integers(0, 64))
def test_text_is_cut_at_a_character(text: str, limit: int) -> None:
    encoded = wire.encode_text(text, limit)
    assert len(encoded) <= limit
    # lone surrogates, as os.fsdecode makes them, are replaced
    assert text.encode("utf-8", "replace").decode().startswith(encoded.decode())


# Anything


def outcome(decode: Callable[..., Any], *args: Any) -> Any:
    """What a decoder returns, or the one kind of exception that it may raise."""
    try:
        return decode(*args)
    except (ProtocolViolation, IncompatibleVersion) as error:
        return error


def check_birth(page: bytes) -> None:
    birth = outcome(wire.decode_birth, page)
    if isinstance(birth, Birth):
        assert wire.decode_birth(wire.encode_birth(birth)) == birth
        assert wire.MIN_CAPACITY <= birth.capacity <= wire.MAX_CAPACITY
        assert wire.RING_OFFSET <= birth.ring_offset <= wire.MAX_RING_OFFSET
        assert wire.MIN_MAX_BATCH <= birth.max_batch <= wire.MAX_MAX_BATCH
        for item in wire.ItemType:
            birth.text(item).encode()


def check_status(page: bytes) -> None:
    status = wire.decode_status(page)
    if status is not None:
        assert wire.decode_status(wire.encode_status(status)) == status
        for item in wire.ItemType:
            status.text(item).encode()


def check_frames(body: bytes, count: int) -> None:
    decoded = outcome(lambda: list(wire.decode_frames(memoryview(body), count)))
    if not isinstance(decoded, Exception):
        assert len(decoded) == count
        assert body_of(decoded) == body


def check_open(payload: bytes) -> None:
    decoded = outcome(wire.decode_open, memoryview(payload))
    if not isinstance(decoded, Exception):
        target, originator = decoded
        assert len(target) <= wire.MAX_TARGET
        assert len(originator) <= wire.MAX_ORIGINATOR


EPOCH, POSITION = 0xAB9734D87173C4F1, 1344


def check_ring(data: bytes) -> None:
    """The ring, its frames, and the streams that they are for."""
    ring = ReceiveRing(EPOCH, wire.RING_OFFSET, wire.MIN_CAPACITY, wire.MIN_MAX_BATCH, POSITION)
    streams = Multiplexer(Role.DIAL, 64, 65536, 64, 65536)
    streams.open("localhost:1")

    def take() -> None:
        for batch in ring.receive(ring.first_piece(), data):
            for frame in wire.decode_frames(batch.body, batch.header.frame_count):
                streams.receive(frame, wire.BATCH_HEADER + len(batch.body))

    outcome(take)
    assert ring.position % wire.ALIGNMENT == 0
    assert 0 <= ring.position - POSITION <= max(len(data) + wire.ALIGNMENT, wire.MIN_CAPACITY)
    offset, length = ring.extent
    assert offset >= wire.RING_OFFSET
    assert 0 < length <= wire.MIN_MAX_BATCH + 2 * PAGE
    assert offset + length <= wire.RING_OFFSET + wire.MIN_CAPACITY


@fuzz
@given(st.binary(max_size=300) | st.binary(min_size=PAGE, max_size=PAGE), U32)
@example(bytes(PAGE), 0)
@example(b"\xff" * PAGE, (1 << 32) - 1)
def test_anything(data: bytes, count: int) -> None:
    check_birth(data)
    check_status(data)
    check_frames(data, count)
    check_open(data)
    check_ring(data)
    assert len(wire.decode_statuses(data)) <= 2


# Almost right

BIRTHS, STATUSES, BATCHES, OPENS = (
    [expand(v["hex"])[:PAGE] for v in load(layer) if "expect" in v]
    for layer in ("birth", "status", "batch", "open")
)
BATCHES = [data for data in BATCHES if data[8:24] == wire.marker_of(EPOCH, POSITION)]


@st.composite
def mutated(draw: st.DrawFn, blocks: list[bytes]) -> bytearray:
    """A valid block after some flips, splices, cuts and numbers put anywhere."""
    data = bytearray(draw(st.sampled_from(blocks)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "splice", "borrow", "cut", "number"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "splice":
                data[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
            case "borrow":
                other = draw(st.sampled_from(blocks))
                data[at : at + draw(st.integers(0, 40))] = other[at : at + draw(st.integers(0, 40))]
            case "cut":
                del data[at:]
            case "number":
                size = draw(st.sampled_from([1, 2, 4, 8]))
                near = draw(st.sampled_from([0, 1, len(data), 1 << 31, (1 << 63), (1 << 64)]))
                value = (near + draw(st.integers(-9, 9))) % (1 << 8 * size)
                data[at : at + size] = value.to_bytes(size, "big")
    return data


def resealed(data: bytearray, length_at: int, right_length: bool) -> bytes:
    """A birth block or status with its checksum, and perhaps its length, made right."""
    if len(data) < length_at + 12:
        return bytes(data)
    if right_length:
        data[length_at : length_at + 4] = len(data).to_bytes(4, "big")
    # the checksum belongs where the length says, which may be before the end
    said = int.from_bytes(data[length_at : length_at + 4], "big")
    end = said if length_at + 12 <= said <= len(data) else len(data)
    return encoder.with_checksum(bytes(data[:end])) + bytes(data[end:])


@settings(fuzz, max_examples=400)
@given(mutated(BIRTHS), st.booleans())
def test_birth_mutated(data: bytearray, right_length: bool) -> None:
    check_birth(bytes(data))
    check_birth(resealed(data, 12, right_length))


@settings(fuzz, max_examples=400)
@given(mutated(STATUSES), st.booleans())
def test_status_mutated(data: bytearray, right_length: bool) -> None:
    check_status(bytes(data))
    check_status(resealed(data, 4, right_length))


def batch_resealed(data: bytearray, header: bool) -> bytes:
    """A batch with its checksum made right, and perhaps what a reader looks at before it."""
    if header:
        data[0:4] = b"MB" + bytes([data[2] & 3 if len(data) > 2 else 0, 6])
        data[8:24] = wire.marker_of(EPOCH, POSITION)
    if len(data) < wire.BATCH_HEADER:
        return bytes(data)
    said = wire.BATCH_HEADER + int.from_bytes(data[4:8], "big")
    if header and said > len(data):
        said = len(data)
        data[4:8] = (said - wire.BATCH_HEADER).to_bytes(4, "big")
    return encoder.batch_with_checksum(bytes(data[:said])) + bytes(data[said:])


@settings(fuzz, max_examples=600)
@given(mutated(BATCHES), st.booleans())
def test_batch_mutated(data: bytearray, header: bool) -> None:
    check_ring(bytes(data))
    check_ring(batch_resealed(data, header))


@fuzz
@given(mutated(OPENS))
def test_open_mutated(data: bytearray) -> None:
    check_open(bytes(data))


@fuzz
@given(frame_lists, st.data())
def test_frames_mutated(listed: list[Frame], data: st.DataObject) -> None:
    body = data.draw(mutated([body_of(listed)]))
    check_frames(bytes(body), data.draw(st.integers(0, 8)))


# Right frames of a peer that breaks the rules: the streams must hold as well

likely = st.integers(0, 3) | st.sampled_from([65535, 65536, 65537, MAX_SEQUENCE, 1 << 63])
plausible = st.builds(
    encoder.frame,
    st.sampled_from([*FrameType, FrameType.DATA, FrameType.DATA, 0x80]),
    st.integers(0, 6),
    likely,
    st.binary(max_size=3) | st.sampled_from([encoder.target(b"a:1"), b"x" * 257]),
    flags=st.integers(0, 1),
    code=st.integers(0, 30),
)


@settings(fuzz, max_examples=400)
@given(st.lists(plausible, max_size=20))
def test_streams_given_anything(listed: list[bytes]) -> None:
    batch = encoder.batch(listed, epoch=EPOCH, position=POSITION)
    check_ring(encoder.padded(batch))


# Hostile lengths

FOUR_GIB = (1 << 32) - 1
OPEN = encoder.frame(FrameType.OPEN, 2, payload=encoder.target(b"a:1"))
OWN = bytes(7) + b"\x01" + bytes(16)
LONG = OPEN[:16] + FOUR_GIB.to_bytes(4, "big") + OPEN[20:]
HOSTILE: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "birth": (check_birth, encoder.birth(length=FOUR_GIB)),
    "birth-item": (check_birth, encoder.birth(tail=b"\x00\x01\xff\xff")),
    "status": (check_status, encoder.status(own=OWN, length=FOUR_GIB)),
    "status-item": (check_status, encoder.status(own=OWN, tail=b"\x00\x10\xff\xff")),
    "batch": (
        check_ring,
        encoder.batch([OPEN], epoch=EPOCH, position=POSITION, body_length=FOUR_GIB),
    ),
    "batch-count": (
        check_ring,
        encoder.batch([OPEN], epoch=EPOCH, position=POSITION, count=FOUR_GIB),
    ),
    "frame": (check_ring, encoder.batch([LONG], epoch=EPOCH, position=POSITION)),
    "frames-count": (lambda body: check_frames(body, FOUR_GIB), b""),
    "open-target": (check_open, b"\xff\xff"),
    "open-long": (check_open, encoder.target(b"a:1", b"b") + bytes(1 << 20)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_length_allocates_nothing(name: str) -> None:
    check, data = HOSTILE[name]
    check(data)  # caches are filled now
    tracemalloc.start()
    try:
        check(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10


@pytest.mark.parametrize("generation", [MAX_SEQUENCE, (1 << 64) - 1])
def test_greatest_generation(generation: int) -> None:
    """A peer that echoes it asks for the next one, which does not fit."""
    engine = Engine.start(Role.DIAL, EngineConfig(), 1, bytes, 0.0)
    peer = encoder.birth(role=encoder.LISTEN).ljust(PAGE, b"\0")
    echo = encoder.incarnation(generation, bytes(16))
    own = encoder.incarnation(1, bytes(range(16)))
    head = (peer + encoder.status(own=own, echo=echo)).ljust(wire.HEAD_LENGTH, b"\0")
    engine.receive_head(head, 1.0)
    assert engine.next_write(2.0)
    again = first_generation(bytes(wire.HEAD_LENGTH), head, Role.DIAL)
    Engine.start(Role.DIAL, EngineConfig(), again, bytes, 0.0).next_write(0.0)
