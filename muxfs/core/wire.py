"""The bytes of `protocol.md`: constants and codecs, as pure functions.

Rule 1: every wire constant of the project stands here, once.
Rule 2: decoders return None for "not there yet" and raise `ProtocolViolation`
for content that is proven by its checksum and still wrong (section 12).
Rule 3: nothing is allocated by a length that was not checked first.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import attrs
from xxhash import xxh3_64, xxh3_64_digest

Buffer: TypeAlias = bytes | bytearray | memoryview

# Section 13: limits and constants.
PAGE: Final = 4096
HEAD_LENGTH: Final = 12288
RING_OFFSET: Final = 16384
MAX_RING_OFFSET: Final = 1 << 20
MIN_CAPACITY: Final = 256 << 10
MAX_CAPACITY: Final = 1 << 30
DEFAULT_CAPACITY: Final = 16 << 20
ALIGNMENT: Final = 64
BIRTH_PREFIX: Final = 16
BIRTH_FIXED: Final = 96
STATUS_FIXED: Final = 96
BATCH_HEADER: Final = 48
FRAME_HEADER: Final = 20
CHECKSUM_LENGTH: Final = 8
SEALED_HEADER: Final = 40
TAG_LENGTH: Final = 16
KEY_ID_LENGTH: Final = 8
SHARE_LENGTH: Final = 32
KEY_SPAN: Final = 1 << 36
MIN_MAX_BATCH: Final = 64 << 10
MAX_MAX_BATCH: Final = 16 << 20
DEFAULT_MAX_BATCH: Final = 2 << 20
DEFAULT_MAX_STREAMS: Final = 4096
DEFAULT_INITIAL_CREDIT: Final = 64 << 10
MAX_PENDING_OPENS: Final = 256
MAX_TARGET: Final = 1024
MAX_ORIGINATOR: Final = 256
MAX_REASON: Final = 256
MAX_BOUND_ADDRESS: Final = 256
MAX_PING: Final = 64
MAX_PENDING_PINGS: Final = 16
MAX_CONTROL_QUEUE: Final = 16384
MAX_HEARTBEAT_MS: Final = 3600000
MAX_SEQUENCE: Final = (1 << 63) - 1
DEFAULT_HEARTBEAT_MS: Final = 5000
DEFAULT_PEER_TIMEOUT_MS: Final = 60000

LEAST_BEATS: Final = 3
"""Heartbeats of silence before a peer is silent, and at least before it is dead."""

BIRTH_MAGIC: Final = b"\x89muxfs\r\n"  # PNG's trick: shows text-mode mangling
STATUS_MAGIC: Final = b"MXST"
BATCH_MAGIC: Final = b"MB"
VERSION_MAJOR: Final = 1
VERSION_MINOR: Final = 0
LAYOUT_RING: Final = 1
EPOCH_LABEL: Final = b"muxfs-epoch-1"
SEALED_LABEL: Final = b"muxfs-1"
NONCE_LENGTH: Final = 16

FEATURE_SEALED: Final = 1
STATUS_CLOSED: Final = 1
STATUS_SEALED: Final = 2
BATCH_PAD: Final = 1
BATCH_NOTICE: Final = 2
BATCH_SEALED: Final = 4
FLAG_FIN: Final = 1
SESSION_STREAM: Final = 0
FIRST_IGNORABLE_TYPE: Final = 0x80

_BIRTH = struct.Struct("!8sBBBBIQ16sQQIIQQQII")
_STATUS = struct.Struct("!4sIHHI24s24sQQQQ")
_BATCH = struct.Struct("!2sBBIQQQII8s")
_FRAME = struct.Struct("!BBHIQI")
_ITEM = struct.Struct("!HH")
_INCARNATION = struct.Struct("!Q16s")
_TEXT_LENGTH = struct.Struct("!H")
_MARKER = struct.Struct("!QQ")

MARKER_OFFSET: Final = 8
"""Where epoch and position stand in a batch: what a reader waits for at its read position."""


class ProtocolViolation(Exception):
    """The peer sent bytes that are proven by their checksum and break the protocol."""


class Incompatible(Exception):
    """The peer's birth block is not broken, and still no session with it is possible."""


class IncompatibleVersion(Incompatible):
    """The peer's birth block is of another major version."""

    def __init__(self, major: int, minor: int) -> None:
        super().__init__(f"protocol version {major}.{minor}")
        self.major = major
        self.minor = minor


class Role(enum.IntEnum):
    """Which of the two files a side writes."""

    DIAL = 0
    LISTEN = 1

    @property
    def peer(self) -> Role:
        """The other role."""
        return Role(1 - self)

    @property
    def file_name(self) -> str:
        """Name of the mailbox that this role writes."""
        return f"{self.name.lower()}.mbx"


class FrameType(enum.IntEnum):
    """Section 6."""

    OPEN = 1
    ACCEPT = 2
    DATA = 3
    CREDIT = 4
    STOP = 5
    RESET = 6
    PING = 7
    PONG = 8


class Code(enum.IntEnum):
    """Why a stream or a session ended (section 6)."""

    OK = 0
    REFUSED = 1
    UNREACHABLE = 2
    TIMEOUT = 3
    RESOLVE = 4
    PROHIBITED = 5
    LIMIT = 6
    CANCELLED = 7
    BROKEN = 8
    INTERNAL = 9
    SHUTDOWN = 16
    PROTOCOL = 17
    VERSION = 18
    STORAGE = 19
    SUPERSEDED = 20
    PEER_RESTARTED = 21
    PEER_DEAD = 22

    @classmethod
    def of(cls, number: int) -> Code:
        """Return the code of that number; INTERNAL for one that we do not know."""
        try:
            return cls(number)
        except ValueError:
            return cls.INTERNAL


class ItemType(enum.IntEnum):
    """Section 3: items of birth block and status."""

    SOFTWARE = 1
    HOST = 2
    PROCESS = 3
    USER = 4
    STARTED = 5
    LABEL = 6
    REPLACES = 7
    KEY = 8
    SEALED = 9
    REASON = 16
    REPORT = 17


Items: TypeAlias = tuple[tuple[int, bytes], ...]


@attrs.frozen(order=True)
class Incarnation:
    """One life of one side: ordered by generation; the nonce tells equal ones apart."""

    generation: int
    nonce: bytes = attrs.field(order=False)

    def encode(self) -> bytes:
        """Encode as 24 bytes."""
        return _INCARNATION.pack(self.generation, self.nonce)

    @classmethod
    def decode(cls, data: bytes) -> Incarnation | None:
        """Decode 24 bytes; None for all zeros (no incarnation)."""
        generation, nonce = _INCARNATION.unpack(data)
        return cls(generation, nonce) if generation else None


_NO_INCARNATION = bytes(_INCARNATION.size)


@attrs.frozen
class Birth:
    """A birth block (section 3). Lengths in bytes, times in milliseconds."""

    role: Role
    incarnation: Incarnation
    capacity: int = DEFAULT_CAPACITY
    ring_offset: int = RING_OFFSET
    max_batch: int = DEFAULT_MAX_BATCH
    max_streams: int = DEFAULT_MAX_STREAMS
    initial_credit: int = DEFAULT_INITIAL_CREDIT
    features_offered: int = 0
    features_required: int = 0
    heartbeat: int = DEFAULT_HEARTBEAT_MS
    peer_timeout: int = DEFAULT_PEER_TIMEOUT_MS
    version_minor: int = VERSION_MINOR
    items: Items = ()
    block: bytes = attrs.field(default=b"", eq=False, repr=False)
    """The very bytes that it was read from."""

    def item(self, wanted: ItemType) -> bytes:
        """Return the value of an item; b"" where it is missing."""
        return _item(self.items, wanted)

    def text(self, item: ItemType) -> str:
        """Return an item for people; "" where it is missing. May hold control characters."""
        return _text_item(self.items, item)


@attrs.frozen
class Status:
    """A status slot (section 4)."""

    incarnation: Incarnation
    echo: Incarnation | None
    beat: int
    write_position: int = 0
    read_position: int = 0
    closed: bool = False
    code: Code = Code.OK
    items: Items = ()

    def text(self, item: ItemType) -> str:
        """Return an item for people; "" where it is missing. May hold control characters."""
        return _text_item(self.items, item)


@attrs.frozen
class BatchHeader:
    """A batch's header (section 5); valid only together with what proves it."""

    position: int
    ack: int
    body_length: int
    frame_count: int
    pad: bool
    notice: bool = False
    sealed: bool = False

    @property
    def length(self) -> int:
        """Bytes of the whole batch, without the padding after it."""
        return (SEALED_HEADER if self.sealed else BATCH_HEADER) + self.body_length


@attrs.define
class Frame:
    """One frame (section 6). The payload may be a view into the batch that was read."""

    type: int
    stream_id: int
    sequence: int = 0
    payload: Buffer = b""
    flags: int = 0
    code: int = 0


def align(length: int) -> int:
    """Round up to where the next batch may start."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def epoch_of(dial: Incarnation, listen: Incarnation) -> int:
    """Name the pair of incarnations (section 7)."""
    digest = xxh3_64(EPOCH_LABEL)
    digest.update(dial.encode())
    digest.update(listen.encode())
    return digest.intdigest()


def batch_epoch(epoch: int, writer: Role) -> int:
    """Return what stands in the batches of that writer: one direction is never the other."""
    return epoch if writer is Role.DIAL else epoch ^ ((1 << 64) - 1)


def marker_of(epoch: int, position: int) -> bytes:
    """Bytes at `MARKER_OFFSET` of the batch that stands at `position` of `epoch`."""
    return _MARKER.pack(epoch, position)


# Items


def _item(items: Items, wanted: ItemType) -> bytes:
    return next((value for kind, value in items if kind == wanted), b"")


def _text_item(items: Items, wanted: ItemType) -> str:
    return _item(items, wanted).decode("utf-8", "replace")


def encode_items(items: Items, room: int) -> bytes:
    """Encode what fits: items are for people, and never worth an error."""
    parts: list[bytes] = []
    for kind, value in items:
        room -= _ITEM.size + len(value)
        if room < 0:
            break
        parts.append(_ITEM.pack(kind, len(value)) + value)
    return b"".join(parts)


def decode_items(data: bytes) -> Items | None:
    """Decode items; None if they do not fill `data` exactly."""
    items: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if at + _ITEM.size > len(data):
            return None
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if at + length > len(data):
            return None
        items.append((kind, data[at : at + length]))
        at += length
    return tuple(items)


# Birth block and status slots


def _whole(data: bytes, length: int) -> bool:
    """Whether the block of that length ends with the checksum of what stands before."""
    end = length - CHECKSUM_LENGTH
    return len(data) >= length and xxh3_64_digest(data[:end]) == data[end:length]


def with_checksum(block: bytes) -> bytes:
    """Put the checksum after the rest of a birth block or status."""
    return block + xxh3_64_digest(block)


def encode_birth(birth: Birth) -> bytes:
    """Encode a birth block, at most `PAGE` bytes."""
    items = encode_items(birth.items, PAGE - BIRTH_FIXED - CHECKSUM_LENGTH)
    return with_checksum(
        _BIRTH.pack(
            BIRTH_MAGIC,
            VERSION_MAJOR,
            birth.version_minor,
            birth.role,
            LAYOUT_RING,
            BIRTH_FIXED + len(items) + CHECKSUM_LENGTH,
            birth.incarnation.generation,
            birth.incarnation.nonce,
            birth.ring_offset,
            birth.capacity,
            birth.max_batch,
            birth.max_streams,
            birth.initial_credit,
            birth.features_offered,
            birth.features_required,
            birth.heartbeat,
            birth.peer_timeout,
        )
        + items
    )


def decode_birth(page: bytes) -> Birth | None:
    """Decode the first page of a mailbox; None for "not there yet".

    Raises IncompatibleVersion for a valid block of another major version and
    ProtocolViolation for a valid block whose fields are out of their limits.
    """
    shortest = BIRTH_PREFIX + CHECKSUM_LENGTH
    if len(page) < shortest or page[:8] != BIRTH_MAGIC:
        return None
    (length,) = struct.unpack_from("!I", page, 12)
    if not shortest <= length <= PAGE or not _whole(page, length):
        return None
    major, minor = page[8], page[9]
    if major != VERSION_MAJOR:
        raise IncompatibleVersion(major, minor)
    if length < BIRTH_FIXED + CHECKSUM_LENGTH:
        raise ProtocolViolation("a birth block that is too short")
    fields = _BIRTH.unpack_from(page)
    role, layout = fields[3:5]
    items = decode_items(page[BIRTH_FIXED : length - CHECKSUM_LENGTH])
    if role > Role.LISTEN or layout != LAYOUT_RING or items is None:
        raise ProtocolViolation("a birth block with an unknown role or layout, or broken items")
    birth = Birth(
        role=Role(role),
        incarnation=Incarnation(fields[6], fields[7]),
        ring_offset=fields[8],
        capacity=fields[9],
        max_batch=fields[10],
        max_streams=fields[11],
        initial_credit=fields[12],
        features_offered=fields[13],
        features_required=fields[14],
        heartbeat=fields[15],
        peer_timeout=fields[16],
        version_minor=minor,
        items=items,
        block=page[:length],
    )
    _check_birth(birth)
    return birth


def _check_birth(birth: Birth) -> None:
    within_limits = (
        1 <= birth.incarnation.generation <= MAX_SEQUENCE
        and RING_OFFSET <= birth.ring_offset <= MAX_RING_OFFSET
        and birth.ring_offset % PAGE == 0
        and MIN_CAPACITY <= birth.capacity <= MAX_CAPACITY
        and birth.capacity % PAGE == 0
        and MIN_MAX_BATCH <= birth.max_batch <= MAX_MAX_BATCH
        and birth.initial_credit <= MAX_SEQUENCE
        and 1 <= birth.heartbeat <= MAX_HEARTBEAT_MS
        and (birth.peer_timeout == 0 or birth.peer_timeout >= LEAST_BEATS * birth.heartbeat)
    )
    if not within_limits:
        raise ProtocolViolation("a birth block with fields out of their limits")


def encode_status(status: Status) -> bytes:
    """Encode a status, at most `PAGE` bytes."""
    items = encode_items(status.items, PAGE - STATUS_FIXED - CHECKSUM_LENGTH)
    return with_checksum(encode_status_fields(status, len(items)) + items)


def encode_status_fields(status: Status, tail: int, flags: int = 0) -> bytes:
    """Encode what stands before the `tail` bytes and the checksum of a status."""
    return _STATUS.pack(
        STATUS_MAGIC,
        STATUS_FIXED + tail + CHECKSUM_LENGTH,
        flags | (STATUS_CLOSED if status.closed else 0),
        status.code,
        0,
        status.incarnation.encode(),
        status.echo.encode() if status.echo else _NO_INCARNATION,
        status.beat,
        status.write_position,
        status.read_position,
        0,
    )


def status_offset(beat: int) -> int:
    """File offset of the slot that the status of that beat goes to."""
    return PAGE * (1 + beat % 2)


def decode_status(page: bytes) -> Status | None:
    """Decode one status slot; None for anything that is not a whole, valid one."""
    found = split_status(page)
    if found is None or found.flags & STATUS_SEALED:
        return None
    items = decode_items(found.tail)
    return None if items is None else attrs.evolve(found.status, items=items)


def clear_status(page: bytes) -> Status | None:
    """Decode what a status slot tells to everybody: all of it, or its fields if it is sealed."""
    found = split_status(page)
    if found is None or found.flags & STATUS_SEALED:
        return found.status if found else None
    return decode_status(page)


@attrs.frozen
class StatusParts:
    """A whole status: its fields, and what stands where items are."""

    status: Status
    flags: int
    fields: bytes
    tail: bytes


def split_status(page: bytes) -> StatusParts | None:
    """Take a status apart; None unless it is a whole one. What it says is not proven by that."""
    if len(page) < STATUS_FIXED + CHECKSUM_LENGTH or page[:4] != STATUS_MAGIC:
        return None
    (length,) = struct.unpack_from("!I", page, 4)
    if not STATUS_FIXED + CHECKSUM_LENGTH <= length <= PAGE or not _whole(page, length):
        return None
    _, _, flags, code, _, own, echo, beat, write, read, _ = _STATUS.unpack_from(page)
    incarnation = Incarnation.decode(own)
    if incarnation is None or flags & ~(STATUS_CLOSED | STATUS_SEALED):
        return None
    status = Status(
        incarnation=incarnation,
        echo=Incarnation.decode(echo),
        beat=beat,
        write_position=write,
        read_position=read,
        closed=bool(flags & STATUS_CLOSED),
        code=Code.of(code),
    )
    tail = page[STATUS_FIXED : length - CHECKSUM_LENGTH]
    return StatusParts(status, flags, page[:STATUS_FIXED], tail)


def decode_statuses(
    head: bytes, decode: Callable[[bytes], Status | None] = decode_status
) -> list[Status]:
    """Return the valid statuses of a mailbox's head (both slots), the newest last."""
    slots = (decode(head[PAGE * slot : PAGE * (slot + 1)]) for slot in (1, 2))
    return sorted((s for s in slots if s is not None), key=lambda s: (s.incarnation, s.beat))


# Batches


class BatchProof(Protocol):
    """What proves the batches of one direction of one epoch."""

    @property
    def sealed(self) -> bool:
        """Whether that is a tag after a sealed body; else a checksum in the header."""

    @property
    def overhead(self) -> int:
        """Bytes of a batch that are not frames."""

    def prove(self, position: int, head: bytes, parts: Sequence[Buffer]) -> list[Buffer]:
        """Return the batch of that header, which lacks a checksum, and of these frames."""

    def check(self, header: BatchHeader, batch: memoryview) -> memoryview | None:
        """Return the frames of a batch, a view; None if it is not what the writer wrote."""


class Checksum:
    """A checksum over header and body; no copy of payloads is made."""

    sealed: Final = False
    overhead: Final = BATCH_HEADER

    def prove(self, position: int, head: bytes, parts: Sequence[Buffer]) -> list[Buffer]:  # noqa: ARG002
        """See `BatchProof`."""
        digest = xxh3_64(head)
        for part in parts:
            digest.update(part)
        return [head + digest.digest(), *parts]

    def check(self, header: BatchHeader, batch: memoryview) -> memoryview | None:  # noqa: ARG002
        """See `BatchProof`."""
        return batch[BATCH_HEADER:] if verify_batch(batch) else None


by_checksum: Final = Checksum()


def encode_batch(
    epoch: int,
    position: int,
    ack: int,
    parts: Sequence[Buffer],
    frame_count: int,
    proof: BatchProof = by_checksum,
) -> list[Buffer]:
    """Put a header before the encoded frames `parts`."""
    return _batch(0, epoch, position, ack, parts, frame_count, proof)


def encode_pad(
    epoch: int, position: int, ack: int, proof: BatchProof = by_checksum
) -> list[Buffer]:
    """Encode the batch that sends the reader to the start of the ring."""
    return _batch(BATCH_PAD, epoch, position, ack, (), 0, proof)


def encode_notice(
    epoch: int, position: int, ack: int, proof: BatchProof = by_checksum
) -> list[Buffer]:
    """Encode the batch without frames that makes the reader look at the status."""
    return _batch(BATCH_NOTICE, epoch, position, ack, (), 0, proof)


def _batch(
    flags: int,
    epoch: int,
    position: int,
    ack: int,
    parts: Sequence[Buffer],
    frame_count: int,
    proof: BatchProof,
) -> list[Buffer]:
    length = proof.overhead + sum(map(len, parts))
    header = SEALED_HEADER if proof.sealed else BATCH_HEADER
    if proof.sealed:
        flags |= BATCH_SEALED
    head = _BATCH.pack(
        BATCH_MAGIC, flags, header // 8, length - header, epoch, position, ack, frame_count, 0, b""
    )[:SEALED_HEADER]
    return [*proof.prove(position, head, parts), bytes(-length % ALIGNMENT)]


def decode_batch_header(data: Buffer, epoch: int, position: int) -> BatchHeader | None:
    """Decode the header at the read position; None unless it is of that epoch and position."""
    if len(data) < BATCH_HEADER:
        return None
    magic, flags, units, length, its_epoch, its_position, ack, count, _, _ = _BATCH.unpack_from(
        data
    )
    sealed = bool(flags & BATCH_SEALED)
    if (
        its_epoch != epoch
        or its_position != position
        or magic != BATCH_MAGIC
        or units * 8 != (SEALED_HEADER if sealed else BATCH_HEADER)
        or flags & ~(BATCH_PAD | BATCH_NOTICE | BATCH_SEALED)
    ):
        return None
    pad, notice = bool(flags & BATCH_PAD), bool(flags & BATCH_NOTICE)
    return BatchHeader(position, ack, length, count, pad, notice, sealed)


def verify_batch(batch: memoryview) -> bool:
    """Whether the checksum holds over `batch`: the header and exactly the body."""
    digest = xxh3_64(batch[: BATCH_HEADER - CHECKSUM_LENGTH])
    digest.update(batch[BATCH_HEADER:])
    return digest.digest() == batch[BATCH_HEADER - CHECKSUM_LENGTH : BATCH_HEADER]


def decode_frames(body: memoryview, count: int) -> Iterator[Frame]:
    """Split a verified body into its frames; payloads are views into it.

    Raises ProtocolViolation if the frames do not fill the body exactly.
    """
    at = 0
    end = len(body)
    for _ in range(count):
        if at + FRAME_HEADER > end:
            raise ProtocolViolation("a batch that ends inside a frame header")
        kind, flags, code, stream_id, sequence, length = _FRAME.unpack_from(body, at)
        at += FRAME_HEADER
        if at + length > end:
            raise ProtocolViolation("a frame that is longer than its batch")
        yield Frame(kind, stream_id, sequence, body[at : at + length], flags, code)
        at += length
    if at != end:
        raise ProtocolViolation("a batch with more bytes than its frames")


# Frames


def encode_frame_header(
    kind: int, stream_id: int, sequence: int, length: int, flags: int = 0, code: int = 0
) -> bytes:
    """Encode the 20 bytes before a payload."""
    return _FRAME.pack(kind, flags, code, stream_id, sequence, length)


def encode_frame(frame: Frame) -> bytes:
    """Encode a whole (small) frame."""
    head = encode_frame_header(
        frame.type, frame.stream_id, frame.sequence, len(frame.payload), frame.flags, frame.code
    )
    return head + bytes(frame.payload)


def encode_text(text: str, limit: int) -> bytes:
    """Encode as UTF-8, cut to `limit` bytes at a character's boundary."""
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").encode()


def encode_open(target: str, originator: str) -> bytes:
    """Encode the payload of OPEN. Raises ValueError for a target that is too long."""
    encoded = target.encode()
    if len(encoded) > MAX_TARGET:
        raise ValueError(f"the target is longer than {MAX_TARGET} bytes")
    return _prefixed((encoded, encode_text(originator, MAX_ORIGINATOR)))


def _prefixed(texts: Iterable[bytes]) -> bytes:
    return b"".join(_TEXT_LENGTH.pack(len(text)) + text for text in texts)


def decode_open(payload: Buffer) -> tuple[str, str]:
    """Decode OPEN's payload into target and originator. Raises ProtocolViolation."""
    data = bytes(payload[: 2 * _TEXT_LENGTH.size + MAX_TARGET + MAX_ORIGINATOR + 1])
    texts: list[str] = []
    at = 0
    for limit in (MAX_TARGET, MAX_ORIGINATOR):
        if at + _TEXT_LENGTH.size > len(data):
            raise ProtocolViolation("an OPEN that is too short")
        (length,) = _TEXT_LENGTH.unpack_from(data, at)
        at += _TEXT_LENGTH.size
        if length > limit or at + length > len(data):
            raise ProtocolViolation("an OPEN with a text longer than its limit or its payload")
        texts.append(data[at : at + length].decode("utf-8", "replace"))
        at += length
    if at != len(payload):
        raise ProtocolViolation("an OPEN with bytes after its texts")
    return texts[0], texts[1]
