"""The key of sealed sessions, as a value and as the line of a key file.

    muxfs-key-1 KEY-ID SECRET COMMENT

The key id (hex) proves that the secret (base64url) was copied whole, and tells people
which key it is without showing it.
"""

from __future__ import annotations

import base64
import binascii
import os
from datetime import UTC, datetime
from typing import Final

import attrs

from muxfs.core.proof import Sealer
from muxfs.errors import UnusableKey

SECRET_LENGTH: Final = 32
FORMAT: Final = "muxfs-key-1"


@attrs.frozen
class Key:
    """A secret that both sides have; see `muxfs.load_key`."""

    secret: bytes = attrs.field(repr=False)
    comment: str = ""
    name: str = ""
    """What it is used for: nothing that another name's holder sealed is believed."""

    @secret.validator
    def _check_secret(self, _attribute: object, value: bytes) -> None:
        if len(value) != SECRET_LENGTH:
            raise ValueError(f"a key has {SECRET_LENGTH} bytes")

    def named(self, name: str) -> Key:
        """Return the key for one session; both sides must give the same name."""
        return attrs.evolve(self, name=name)

    @property
    def key_id(self) -> str:
        """What tells keys apart, in hex; no secret. Raises UnusableKey."""
        return make_sealer(self).key_id.hex()

    def line(self) -> str:
        """Return the line of a key file, without its end."""
        secret = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return " ".join(filter(None, (FORMAT, self.key_id, secret, self.comment)))

    @classmethod
    def parse(cls, line: str) -> Key:
        """Read such a line. Raises ValueError, whose text never holds the secret."""
        version, *fields = line.split(None, 3)
        if version != FORMAT:
            raise ValueError(f"it does not begin with {FORMAT}")
        if len(fields) < 2:
            raise ValueError("the secret is missing")
        try:
            secret = base64.b64decode(fields[1] + "=", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the secret is not whole") from None
        if len(secret) != SECRET_LENGTH:
            raise ValueError("the secret is not whole")
        key = cls(secret, *fields[2:])
        if key.key_id != fields[0]:
            raise ValueError("the key id is not that of the secret: it was not copied whole")
        return key


def session_name(path: str) -> str:
    """Return what the muxfs command names a session: TUNNEL/N for TUNNEL/sessions/N.

    The tunnel's own name is the same wherever its filesystem is mounted. May block.
    """
    real = os.path.realpath(path)
    tunnel = os.path.dirname(os.path.dirname(real))
    return f"{os.path.basename(tunnel)}/{os.path.basename(real)}"


def least_generation() -> int:
    """Return the first generation of a life that begins now: seconds since 1970.

    So what was sealed in earlier lives is old even where all files were deleted since. It is
    a lower bound; nothing but that depends on clocks.
    """
    return int(datetime.now(UTC).timestamp())


def make_sealer(key: Key) -> Sealer:
    """Return what the core needs of the key. Raises UnusableKey without `cryptography`."""
    try:
        from muxfs.sealing.schedule import Schedule  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise UnusableKey(
            f"a key needs another package ({error}); install it: pip install cryptography",
            os.EX_UNAVAILABLE,
        ) from None
    return Schedule(key)
