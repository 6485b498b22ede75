"""Key files: made once and never overwritten, and read only if nobody else can read them."""

from __future__ import annotations

import os
import shlex
import stat
from typing import Final

from muxfs.errors import UnusableKey, printable
from muxfs.sealing.key import SECRET_LENGTH, Key

MAX_LENGTH: Final = 4096
"""Bytes of a key file at the most."""


def load_key(path: str | os.PathLike[str]) -> Key:
    """Read a key file. Raises UnusableKey, also if others could read it."""
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check(name, os.fstat(descriptor))
            data = os.read(descriptor, MAX_LENGTH + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        code = os.EX_NOINPUT if isinstance(error, FileNotFoundError) else os.EX_NOPERM
        hint = f" (muxfs keygen {_quoted(name)} makes it)" if code == os.EX_NOINPUT else ""
        raise UnusableKey(
            f"cannot read the key file {name}: {error.strerror}{hint}", code
        ) from None
    try:
        return _parse(data)
    except ValueError as error:
        raise UnusableKey(f"{name} is not a key file of muxfs: {error}", os.EX_DATAERR) from None


def _check(name: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnusableKey(f"the key file {name} is not a file", os.EX_NOINPUT)
    if found.st_uid != os.geteuid():
        raise UnusableKey(f"the key file {name} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o077:
        raise UnusableKey(
            f"other users have access to the key file {name}; mend it with: "
            f"chmod 600 {_quoted(name)} (and make a new key if they may have read it)"
        )


def _parse(data: bytes) -> Key:
    if len(data) > MAX_LENGTH:
        raise ValueError("it is too long")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise ValueError("it does not have one line with a key")
    return Key.parse(lines[0])


def create_key(path: str | os.PathLike[str], comment: str = "") -> Key:
    """Make a new key file, mode 0600. Raises UnusableKey; never overwrites anything."""
    name = os.fspath(path)
    key = Key(os.urandom(SECRET_LENGTH), printable(" ".join(comment.split())))
    line = f"{key.line()}\n".encode()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600)
    except FileExistsError:
        words = f"{name} exists, and is left as it is; choose another name or delete it first"
        raise UnusableKey(words, os.EX_CANTCREAT) from None
    except OSError as error:
        above = os.path.dirname(name) if isinstance(error, FileNotFoundError) else ""
        hint = f" (mkdir -p {_quoted(above)})" if above else ""
        words = f"cannot create {name}: {error.strerror}{hint}"
        raise UnusableKey(words, os.EX_CANTCREAT) from None
    try:
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        os.unlink(name)  # nothing but a part of this key is in it
        raise UnusableKey(f"cannot write {name}: {error.strerror}", os.EX_CANTCREAT) from None
    return key


def _quoted(name: str) -> str:
    return shlex.quote(printable(name))
