"""How birth blocks, statuses and batches are proven: by checksums, or by a key as well.

protocol.md, sections 3 to 5, and section 17 for the key. Cryptography itself is not here:
`Sealer` says what is needed of it (`muxfs.sealing` has it), this module what is sealed by it.

Rule 1: with a key, nothing that the key does not prove changes anything but a message.
Rule 2: a cipher seals one content for each number.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from muxfs.core import wire
from muxfs.core.wire import (
    CHECKSUM_LENGTH,
    SEALED_HEADER,
    TAG_LENGTH,
    BatchHeader,
    BatchProof,
    Birth,
    Buffer,
    Incompatible,
    IncompatibleVersion,
    ItemType,
    ProtocolViolation,
    Role,
    Status,
)

_ITEM_HEADER: Final = 4
_KEY_ITEM: Final = _ITEM_HEADER + wire.KEY_ID_LENGTH + wire.SHARE_LENGTH
_BIRTH_ROOM: Final = (
    wire.PAGE - wire.BIRTH_FIXED - _KEY_ITEM - _ITEM_HEADER - TAG_LENGTH - CHECKSUM_LENGTH
)
_STATUS_ROOM: Final = wire.PAGE - wire.STATUS_FIXED - TAG_LENGTH - CHECKSUM_LENGTH


class Cipher(Protocol):
    """Authenticated encryption with one key."""

    def seal(self, number: int, header: bytes, parts: Sequence[Buffer]) -> bytes:
        """Return the encrypted parts and a tag that also proves number and header."""

    def open(self, number: int, header: Buffer, sealed: Buffer) -> bytes | None:
        """Return what was sealed; None if it was not sealed so."""


class Share(Protocol):
    """What one incarnation adds to the keys of its sessions, forgotten with it."""

    @property
    def public(self) -> bytes:
        """The part that the peer may know, `wire.SHARE_LENGTH` bytes."""


class Ciphers(Protocol):
    """The ciphers of one session's batches."""

    def batches_of(self, writer: Role) -> Cipher:
        """Return what that side's batches are sealed with; the number is the position."""


class Sealer(Protocol):
    """A key that both sides have, for one session of one tunnel."""

    @property
    def key_id(self) -> bytes:
        """What tells keys apart, and may be known; `wire.KEY_ID_LENGTH` bytes."""

    @property
    def name(self) -> str:
        """What tunnel and session the key is used for; both sides must name them alike."""

    def control(self, writer: Role, incarnation: wire.Incarnation) -> Cipher:
        """Return what birth block (number 0) and statuses (number: the beat) are sealed with."""

    def make_share(self, seed: bytes) -> Share:
        """Make a share out of `wire.SHARE_LENGTH` random bytes."""

    def agree(self, share: Share, peer: bytes, dial_birth: bytes, listen_birth: bytes) -> Ciphers:
        """Agree with the peer's public share. Raises ValueError if that is none."""


class Strangeness(enum.Enum):
    """Why there can be no session with whoever writes the peer's file."""

    VERSION = "the other side speaks {found}, this one protocol version {own}"
    FEATURES = "the other side requires features {found}, unknown here"
    KEY_WANTED = (
        "the other side requires a key, and this side has none; give both sides the same --key-file"
    )
    NO_KEY = "the other side has no key; start it with the same --key-file as this one"
    OTHER_KEY = (
        "the other side has another key ({found}, this side has {own}); "
        "copy the key file of one side to the other"
    )
    OTHER_NAME = (
        "the file of the other side names the same key, but is not sealed for {own}: "
        "the tunnel's directory must have one name on both hosts"
    )


@attrs.frozen
class Stranger:
    """Somebody who cannot be talked to."""

    why: Strangeness
    found: str = ""
    own: str = ""

    @property
    def reason(self) -> str:
        """Say it in a sentence."""
        return self.why.value.format(found=self.found, own=self.own)


class Blocks(Protocol):
    """How the blocks of a mailbox's head are written, and which are believed."""

    @property
    def keyed(self) -> bool:
        """Whether what is decoded is known to come from a holder of the key."""

    def begin(self, birth: Birth, seed: bytes) -> Birth:
        """Complete the birth block of a new life; `seed`: `wire.SHARE_LENGTH` random bytes."""

    def decode_birth(self, page: bytes, writer: Role) -> Birth | None:
        """Decode the first page of a mailbox; None for "not there yet".

        Raises Incompatible and ProtocolViolation, never with a key.
        """

    def encode_status(self, status: Status, writer: Role) -> bytes:
        """Encode a status, at most `wire.PAGE` bytes."""

    def decode_status(self, page: bytes, writer: Role) -> Status | None:
        """Decode a status slot; None for anything that is not a whole, valid one."""

    def batches(self, own: Birth, peer: Birth) -> tuple[BatchProof, BatchProof]:
        """Return what proves the own batches and the peer's. Raises ProtocolViolation."""

    def stranger(self, page: bytes) -> Stranger | None:
        """Say why a birth block that is whole cannot be believed."""


def statuses(blocks: Blocks, head: bytes, writer: Role) -> list[Status]:
    """Return the valid statuses of a mailbox's head, the newest last."""
    return wire.decode_statuses(head, lambda page: blocks.decode_status(page, writer))


def clear_birth(page: bytes) -> Birth | None:
    """Decode what a birth block tells to everybody; None if it is not whole and valid."""
    try:
        return wire.decode_birth(page)
    except (Incompatible, ProtocolViolation):
        return None


class ChecksumBlocks:
    """Blocks that a checksum proves: against accidents, not against people."""

    keyed: Final = False

    def begin(self, birth: Birth, seed: bytes) -> Birth:  # noqa: ARG002
        """See `Blocks`."""
        return attrs.evolve(birth, block=wire.encode_birth(birth))

    def decode_birth(self, page: bytes, writer: Role) -> Birth | None:  # noqa: ARG002
        """See `Blocks`."""
        birth = wire.decode_birth(page)
        if birth is not None and birth.features_required:
            raise Incompatible
        return birth

    def encode_status(self, status: Status, writer: Role) -> bytes:  # noqa: ARG002
        """See `Blocks`."""
        return wire.encode_status(status)

    def decode_status(self, page: bytes, writer: Role) -> Status | None:  # noqa: ARG002
        """See `Blocks`."""
        return wire.decode_status(page)

    def batches(self, own: Birth, peer: Birth) -> tuple[BatchProof, BatchProof]:  # noqa: ARG002
        """See `Blocks`."""
        return wire.by_checksum, wire.by_checksum

    def stranger(self, page: bytes) -> Stranger | None:
        """See `Blocks`."""
        try:
            birth = wire.decode_birth(page)
        except IncompatibleVersion as error:
            return _other_version(error)
        if birth is None or not birth.features_required:
            return None
        if birth.features_required == wire.FEATURE_SEALED:
            return Stranger(Strangeness.KEY_WANTED)
        return Stranger(Strangeness.FEATURES, f"{birth.features_required:#x}")


CHECKSUM_BLOCKS: Final = ChecksumBlocks()


def _other_version(error: IncompatibleVersion) -> Stranger:
    own = f"{wire.VERSION_MAJOR}.{wire.VERSION_MINOR}"
    return Stranger(Strangeness.VERSION, str(error), own)


@attrs.define
class SealedBlocks:
    """Blocks whose items are encrypted, and all of which a key proves (section 17)."""

    sealer: Sealer
    keyed: bool = attrs.field(default=True, init=False)
    _share: Share | None = None

    def begin(self, birth: Birth, seed: bytes) -> Birth:
        """See `Blocks`."""
        self._share = share = self.sealer.make_share(seed)
        tail = wire.encode_items(birth.items, _BIRTH_ROOM)
        room = bytes(len(tail) + TAG_LENGTH)
        birth = attrs.evolve(
            birth,
            features_offered=wire.FEATURE_SEALED,
            features_required=wire.FEATURE_SEALED,
            items=((ItemType.KEY, self.sealer.key_id + share.public), (ItemType.SEALED, room)),
        )
        fields = wire.encode_birth(birth)[: -CHECKSUM_LENGTH - len(room)]
        sealed = self.sealer.control(birth.role, birth.incarnation).seal(0, fields, (tail,))
        return attrs.evolve(birth, block=wire.with_checksum(fields + sealed))

    def decode_birth(self, page: bytes, writer: Role) -> Birth | None:
        """See `Blocks`."""
        birth = clear_birth(page)
        if birth is None or birth.role is not writer or not _names_key(birth, self.sealer):
            return None
        sealed = birth.item(ItemType.SEALED)
        fields = birth.block[: -CHECKSUM_LENGTH - len(sealed)]
        tail = self.sealer.control(writer, birth.incarnation).open(0, fields, sealed)
        items = None if tail is None else wire.decode_items(tail)
        return None if items is None else attrs.evolve(birth, items=(*birth.items, *items))

    def encode_status(self, status: Status, writer: Role) -> bytes:
        """See `Blocks`."""
        tail = wire.encode_items(status.items, _STATUS_ROOM)
        fields = wire.encode_status_fields(status, len(tail) + TAG_LENGTH, wire.STATUS_SEALED)
        cipher = self.sealer.control(writer, status.incarnation)
        return wire.with_checksum(fields + cipher.seal(status.beat, fields, (tail,)))

    def decode_status(self, page: bytes, writer: Role) -> Status | None:
        """See `Blocks`."""
        found = wire.split_status(page)
        if found is None or not found.flags & wire.STATUS_SEALED or not found.status.beat:
            return None
        cipher = self.sealer.control(writer, found.status.incarnation)
        tail = cipher.open(found.status.beat, found.fields, found.tail)
        items = None if tail is None else wire.decode_items(tail)
        return None if items is None else attrs.evolve(found.status, items=items)

    def batches(self, own: Birth, peer: Birth) -> tuple[BatchProof, BatchProof]:
        """See `Blocks`."""
        if self._share is None:
            raise RuntimeError("no session before the own birth")
        dial, listen = (own, peer) if own.role is Role.DIAL else (peer, own)
        public = peer.item(ItemType.KEY)[wire.KEY_ID_LENGTH :]
        try:
            ciphers = self.sealer.agree(self._share, public, dial.block, listen.block)
        except ValueError:
            raise ProtocolViolation("a public share that no key can be agreed with") from None
        mine, its = ciphers.batches_of(own.role), ciphers.batches_of(peer.role)
        return SealedBatches(mine), SealedBatches(its)

    def stranger(self, page: bytes) -> Stranger | None:
        """See `Blocks`."""
        try:
            birth = wire.decode_birth(page)
        except IncompatibleVersion as error:
            return _other_version(error)
        except ProtocolViolation:
            return None
        if birth is None or self.decode_birth(page, birth.role) is not None:
            return None
        if birth.features_required != wire.FEATURE_SEALED:
            return Stranger(Strangeness.NO_KEY)
        its_id = birth.item(ItemType.KEY)[: wire.KEY_ID_LENGTH]
        if its_id != self.sealer.key_id:
            return Stranger(Strangeness.OTHER_KEY, its_id.hex(), self.sealer.key_id.hex())
        return Stranger(Strangeness.OTHER_NAME, own=self.sealer.name)


def _names_key(birth: Birth, sealer: Sealer) -> bool:
    """Whether the block is laid out as one of this key is."""
    kinds = [kind for kind, _ in birth.items]
    named = birth.item(ItemType.KEY)
    return (
        birth.features_required == wire.FEATURE_SEALED
        and kinds == [ItemType.KEY, ItemType.SEALED]
        and len(named) == wire.KEY_ID_LENGTH + wire.SHARE_LENGTH
        and named[: wire.KEY_ID_LENGTH] == sealer.key_id
    )


@attrs.frozen
class SealedBatches:
    """Batches whose body is encrypted, and which a tag at its end proves."""

    cipher: Cipher
    sealed: bool = attrs.field(default=True, init=False)
    overhead: int = attrs.field(default=SEALED_HEADER + TAG_LENGTH, init=False)

    def prove(self, position: int, head: bytes, parts: Sequence[Buffer]) -> list[Buffer]:
        """See `BatchProof`."""
        return [head, self.cipher.seal(position, head, parts)]

    def check(self, header: BatchHeader, batch: memoryview) -> memoryview | None:
        """See `BatchProof`."""
        head, body = batch[:SEALED_HEADER], batch[SEALED_HEADER:]
        frames = self.cipher.open(header.position, head, body)
        return None if frames is None else memoryview(frames)
