"""What two doctors write for each other: one document at a time, which proves itself.

    0   8  magic `muxfsDOC`
    8   8  xxh3-64 of all that follows, big-endian
    16  4  length of the document in bytes, big-endian
    20     the document, JSON

A slot is a file of fixed size with one writer, overwritten in place and synced; it is read
past the cache. A torn view has a wrong checksum, and is read again.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, TypeAlias

import attrs
import xxhash

from muxfs.doctor.probes import OwnProbe, PeerProbe, ProbeDirectory, surest

SLOT_SIZE: Final = 256 << 10
_MAGIC: Final = b"muxfsDOC"
_HEAD: Final = struct.Struct("!8sQI")
_LENGTH: Final = struct.Struct("!I")
_PAGE: Final = 4096

Document: TypeAlias = dict[str, Any]


def encode(document: Document) -> bytes:
    """Encode a document. Raises ValueError if it does not fit into a slot."""
    body = json.dumps(document, separators=(",", ":")).encode()
    if len(body) > SLOT_SIZE - _HEAD.size:
        raise ValueError(f"a document of {len(body)} bytes does not fit into a slot")
    rest = _LENGTH.pack(len(body)) + body
    return _MAGIC + xxhash.xxh3_64_digest(rest) + rest


def length_of(head: bytes) -> int | None:
    """Return how many bytes of the file belong to the document; None if there is none."""
    if len(head) < _HEAD.size:
        return None
    magic, _, length = _HEAD.unpack_from(head)
    if magic != _MAGIC or length > SLOT_SIZE - _HEAD.size:
        return None
    return _HEAD.size + int(length)


def decode(data: bytes) -> Document | None:
    """Decode what a slot begins with; None where it is not a whole document."""
    length = length_of(data)
    if length is None or len(data) < length:
        return None
    if data[8:16] != xxhash.xxh3_64_digest(data[16:length]):
        return None
    try:
        document = json.loads(data[_HEAD.size : length])
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def read_document(probe: OwnProbe | PeerProbe) -> Document | None:
    """Read what stands in a slot. Raises OSError."""
    head = probe.read(0, _PAGE)
    length = length_of(head)
    if length is None:
        return None
    return decode(head if length <= len(head) else probe.read(0, length))


@attrs.define
class OwnSlot:
    """The slot that this doctor writes."""

    probes: ProbeDirectory
    probe: OwnProbe

    @classmethod
    def take(cls, probes: ProbeDirectory, name: str) -> OwnSlot:
        """Open the slot or create it; whoever had it before is overwritten by the first `put`."""
        return cls(probes, probes.create(name, surest(), SLOT_SIZE))

    def put(self, document: Document) -> None:
        """Write a document in place of the one before."""
        self.probe.write(0, encode(document))

    def look(self) -> Document | None:
        """Read what the file server has."""
        return read_document(self.probe)

    def leave(self) -> None:
        """Give it up to another doctor who took it."""
        self.probes.leave(self.probe)


def look_afresh(probes: ProbeDirectory, name: str) -> Document | None:
    """Look the slot of that name up, and read it; None where there is nothing valid."""
    probe = probes.open(name, surest().read)
    if probe is None:
        return None
    try:
        return read_document(probe)
    finally:
        probe.file.close()
