"""From the secret of a key file to the ciphers of a session (protocol.md, section 17).

Rule 1: no key is used for two purposes, two directions, two incarnations or two names.
Rule 2: all cryptography is that of `cryptography`; here is only what goes into it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from muxfs.core.proof import Cipher, Share
from muxfs.core.wire import (
    KEY_ID_LENGTH,
    KEY_SPAN,
    SEALED_LABEL,
    Buffer,
    Incarnation,
    Role,
)
from muxfs.sealing.key import Key

_KEY_LENGTH: Final = 32
_NONCE_LENGTH: Final = 12
_CONTROLS_KEPT: Final = 8
"""Ciphers of blocks that are kept: a foreign file may name any number of incarnations."""


def _extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract: RFC 5869, section 2.2."""
    return hmac.digest(salt, secret, "sha256")


def _expand(secret: bytes, label: bytes, data: bytes = b"", length: int = _KEY_LENGTH) -> bytes:
    info = SEALED_LABEL + b" " + label + b"\0" + data
    return HKDFExpand(SHA256(), length, info).derive(secret)


class AesGcm:
    """AES-256-GCM whose nonce is the number: see `muxfs.core.proof.Cipher`."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, header: bytes, parts: Sequence[Buffer]) -> bytes:
        """See `Cipher`."""
        # joined first: 12 us for 1 MiB; a context that takes parts costs 4 us for each batch
        return self._aead.encrypt(_nonce(number), b"".join(parts), header)

    def open(self, number: int, header: Buffer, sealed: Buffer) -> bytes | None:
        """See `Cipher`."""
        try:
            return self._aead.decrypt(_nonce(number), sealed, header)
        except InvalidTag:
            return None


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_LENGTH, "big")


class BatchCipher:
    """One direction of one session: a fresh key for each `KEY_SPAN` bytes of positions."""

    def __init__(self, secret: bytes, writer: Role) -> None:
        self._secret = secret
        self._writer = writer
        self._span = -1
        self._cipher: AesGcm

    def _at(self, position: int) -> AesGcm:
        span = position // KEY_SPAN
        if span != self._span:
            data = bytes([self._writer]) + span.to_bytes(8, "big")
            self._cipher = AesGcm(_expand(self._secret, b"batch", data))
            self._span = span
        return self._cipher

    def seal(self, number: int, header: bytes, parts: Sequence[Buffer]) -> bytes:
        """See `Cipher`."""
        return self._at(number).seal(number, header, parts)

    def open(self, number: int, header: Buffer, sealed: Buffer) -> bytes | None:
        """See `Cipher`."""
        return self._at(number).open(number, header, sealed)


class SessionCiphers:
    """See `muxfs.core.proof.Ciphers`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def batches_of(self, writer: Role) -> Cipher:
        """See `Ciphers`."""
        return BatchCipher(self._secret, writer)


class Ephemeral:
    """See `muxfs.core.proof.Share`."""

    def __init__(self, seed: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, public: bytes) -> bytes:
        """Return what only the two holders of the private keys know. Raises ValueError."""
        return self._private.exchange(X25519PublicKey.from_public_bytes(public))


class Schedule:
    """See `muxfs.core.proof.Sealer`."""

    def __init__(self, key: Key) -> None:
        self._root = root = _extract(SEALED_LABEL, key.secret)
        self.key_id = _expand(root, b"key id", length=KEY_ID_LENGTH)
        self.name = key.name
        self._controls = lru_cache(_CONTROLS_KEPT)(self._control)

    def control(self, writer: Role, incarnation: Incarnation) -> Cipher:
        """See `Sealer`."""
        return self._controls(writer, incarnation.encode())

    def _control(self, writer: Role, incarnation: bytes) -> AesGcm:
        data = bytes([writer]) + incarnation + self.name.encode()
        return AesGcm(_expand(self._root, b"control", data))

    def make_share(self, seed: bytes) -> Ephemeral:
        """See `Sealer`."""
        return Ephemeral(seed)

    def agree(
        self, share: Share, peer: bytes, dial_birth: bytes, listen_birth: bytes
    ) -> SessionCiphers:
        """See `Sealer`."""
        if not isinstance(share, Ephemeral):
            raise TypeError("a share that was not made here")
        births = sha256(dial_birth).digest() + sha256(listen_birth).digest()
        salt = _expand(self._root, b"session", births)
        return SessionCiphers(_extract(salt, share.exchange(peer)))
