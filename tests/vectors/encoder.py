"""A second encoder of the protocol, written from protocol.md alone.

It shares no code with the package, so that a mistake in one of the two shows.
It builds what it is told to build, also what the protocol forbids: each field,
and each length, count and checksum that normally follows from others, may be
given.
"""

import struct
from collections.abc import Iterable

import xxhash

DIAL, LISTEN = 0, 1

BIRTH_MAGIC = bytes.fromhex("89 6D 75 78 66 73 0D 0A")
STATUS_MAGIC = bytes.fromhex("4D 58 53 54")
BATCH_MAGIC = bytes.fromhex("4D 42")

# Section 3 and 4.
SOFTWARE, HOST, PROCESS, USER, STARTED, LABEL, REASON, REPORT = 1, 2, 3, 4, 5, 6, 16, 17
CLOSED = 1
# Section 5.
PAD, NOTICE = 1, 2
# Section 6.
OPEN, ACCEPT, DATA, CREDIT, STOP, RESET, PING, PONG = range(1, 9)
FIN = 1

Items = Iterable[tuple[int, bytes]]


def checksum(data: bytes) -> bytes:
    return xxhash.xxh3_64(data, seed=0).digest()


def incarnation(generation: int, nonce: bytes) -> bytes:
    return struct.pack(">Q16s", generation, nonce)


def epoch(dial: bytes, listen: bytes) -> int:
    return int.from_bytes(checksum(b"muxfs-epoch-1" + dial + listen), "big")


def epoch_of_listen(pair: int) -> int:
    """What the batches of the listen side carry; those of the dial side carry the epoch itself."""
    return pair ^ (2**64 - 1)


def items(pairs: Items) -> bytes:
    return b"".join(struct.pack(">HH", kind, len(value)) + value for kind, value in pairs)


def sealed(fixed: bytes, tail: bytes, length_at: int, length: int | None) -> bytes:
    """The fixed part and the items, with the length filled in, and the checksum."""
    block = bytearray(fixed + tail)
    if length is None:
        length = len(block) + 8
    block[length_at : length_at + 4] = struct.pack(">I", length)
    return bytes(block) + checksum(bytes(block))


def birth(
    *,
    role: int = DIAL,
    generation: int = 1,
    nonce: bytes = bytes(range(16)),
    ring_offset: int = 16384,
    capacity: int = 16777216,
    max_batch: int = 2097152,
    max_streams: int = 4096,
    initial_credit: int = 65536,
    offered: int = 0,
    required: int = 0,
    heartbeat: int = 5000,
    peer_timeout: int = 60000,
    with_items: Items = (),
    tail: bytes = b"",
    magic: bytes = BIRTH_MAGIC,
    major: int = 1,
    minor: int = 0,
    layout: int = 1,
    length: int | None = None,
) -> bytes:
    fixed = struct.pack(
        ">8sBBBBIQ16sQQIIQQQII",
        *(magic, major, minor, role, layout, 0, generation, nonce, ring_offset, capacity),
        *(max_batch, max_streams, initial_credit, offered, required, heartbeat, peer_timeout),
    )
    return sealed(fixed, items(with_items) + tail, 12, length)


def status(
    *,
    own: bytes,
    echo: bytes = bytes(24),
    beat: int = 1,
    written: int = 0,
    read: int = 0,
    flags: int = 0,
    code: int = 0,
    with_items: Items = (),
    tail: bytes = b"",
    magic: bytes = STATUS_MAGIC,
    reserved12: int = 0,
    reserved88: int = 0,
    length: int | None = None,
) -> bytes:
    fixed = struct.pack(
        ">4sIHHI24s24sQQQQ",
        *(magic, 0, flags, code, reserved12, own, echo, beat, written, read, reserved88),
    )
    return sealed(fixed, items(with_items) + tail, 4, length)


def batch(
    frames: Iterable[bytes] = (),
    *,
    epoch: int,
    position: int,
    ack: int = 0,
    flags: int = 0,
    count: int | None = None,
    magic: bytes = BATCH_MAGIC,
    header_units: int = 6,
    body_length: int | None = None,
    reserved: int = 0,
) -> bytes:
    """A batch without the zeros that follow it."""
    parts = list(frames)
    body = b"".join(parts)
    length = len(body) if body_length is None else body_length
    number = len(parts) if count is None else count
    head = struct.pack(
        ">2sBBIQQQII", magic, flags, header_units, length, epoch, position, ack, number, reserved
    )
    return head + checksum(head + body) + body


def padded(block: bytes) -> bytes:
    return block + bytes(-len(block) % 64)


def frame(
    kind: int,
    stream: int,
    sequence: int = 0,
    payload: bytes = b"",
    *,
    flags: int = 0,
    code: int = 0,
    length: int | None = None,
) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">BBHIQI", kind, flags, code, stream, sequence, size) + payload


def target(name: bytes, originator: bytes = b"") -> bytes:
    """The payload of OPEN."""
    return struct.pack(">H", len(name)) + name + struct.pack(">H", len(originator)) + originator


def with_checksum(block: bytes) -> bytes:
    """A birth block or status whose bytes were altered, with its checksum made right."""
    return block[:-8] + checksum(block[:-8])


def batch_with_checksum(block: bytes) -> bytes:
    return block[:40] + checksum(block[:40] + block[48:]) + block[48:]
