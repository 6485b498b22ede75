"""A second encoder of sealed sessions, written from protocol.md, section 17, alone.

HKDF is spelled out as RFC 5869 has it; X25519 and AES-GCM are those of `cryptography`.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import encoder as e

SEALED_FEATURE = 1
KEY, SEALED = 8, 9
STATUS_SEALED, BATCH_SEALED = 2, 4
SPAN = 2**36


def extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.new(salt, secret, hashlib.sha256).digest()


def expand(secret: bytes, label: bytes, data: bytes = b"", length: int = 32) -> bytes:
    info = b"muxfs-1" + b" " + label + b"\x00" + data
    return hmac.new(secret, info + b"\x01", hashlib.sha256).digest()[:length]


def seal(key: bytes, number: int, header: bytes, text: bytes) -> bytes:
    return AESGCM(key).encrypt(number.to_bytes(12, "big"), text, header)


class Side:
    """One incarnation that has the key."""

    def __init__(
        self, key: bytes, name: bytes, role: int, incarnation: bytes, private: bytes
    ) -> None:
        self.root = extract(b"muxfs-1", key)
        self.key_id = expand(self.root, b"key id", length=8)
        self.role = role
        self.incarnation = incarnation
        self.control = expand(self.root, b"control", bytes([role]) + incarnation + name)
        self.private = X25519PrivateKey.from_private_bytes(private)
        self.public = self.private.public_key().public_bytes_raw()

    def birth(self, items: e.Items = (), **given: object) -> bytes:
        generation, nonce = struct.unpack(">Q16s", self.incarnation)
        text = e.items(items)
        room = bytes(len(text) + 16)
        fields = {"offered": SEALED_FEATURE, "required": SEALED_FEATURE} | given
        whole = e.birth(
            role=self.role,
            generation=generation,
            nonce=nonce,
            with_items=((KEY, self.key_id + self.public), (SEALED, room)),
            **fields,  # type: ignore[arg-type]
        )
        before = whole[: -8 - len(room)]
        block = before + seal(self.control, 0, before, text)
        return block + e.checksum(block)

    def status(self, items: e.Items = (), *, beat: int, flags: int = 0, **given: object) -> bytes:
        text = e.items(items)
        whole = e.status(
            own=self.incarnation,
            beat=beat,
            flags=flags | STATUS_SEALED,
            tail=bytes(len(text) + 16),
            **given,  # type: ignore[arg-type]
        )
        block = whole[:96] + seal(self.control, beat, whole[:96], text)
        return block + e.checksum(block)


class Session:
    """Two sides that know each other's birth block."""

    def __init__(self, dial: Side, listen: Side, dial_birth: bytes, listen_birth: bytes) -> None:
        births = hashlib.sha256(dial_birth).digest() + hashlib.sha256(listen_birth).digest()
        self.salt = expand(dial.root, b"session", births)
        shared = dial.private.exchange(listen.private.public_key())
        assert shared == listen.private.exchange(dial.private.public_key())
        self.secret = extract(self.salt, shared)
        pair = e.epoch(dial.incarnation, listen.incarnation)
        self.epochs = {e.DIAL: pair, e.LISTEN: e.epoch_of_listen(pair)}

    def key(self, role: int, position: int) -> bytes:
        return expand(self.secret, b"batch", bytes([role]) + struct.pack(">Q", position // SPAN))

    def batch(
        self,
        role: int,
        frames: Iterable[bytes] = (),
        *,
        position: int,
        flags: int = 0,
        ack: int = 0,
    ) -> bytes:
        """A batch without the zeros that follow it."""
        parts = list(frames)
        text = b"".join(parts)
        head = e.batch(
            parts,
            epoch=self.epochs[role],
            position=position,
            ack=ack,
            flags=flags | BATCH_SEALED,
            header_units=5,
            body_length=len(text) + 16,
        )[:40]
        return head + seal(self.key(role, position), position, head, text)
