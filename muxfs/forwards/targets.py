"""What the target of an OPEN says (protocol.md, section 16), sans-IO."""

from __future__ import annotations

import enum
import functools
from typing import Final, TypeAlias

import attrs

from muxfs.forwards.spec import (
    REMEMBERED,
    AnyTarget,
    Place,
    SpecError,
    Syntax,
    Target,
    UnixPath,
    parse_place,
    parse_target,
)

MAX_NUMBER: Final = 0xFFFF_FFFF
"""Largest number of a request to listen."""

_UNIX: Final = "unix:"
_UDP: Final = "udp:"
_LISTEN: Final = "listen:"
_FORWARDED: Final = "forwarded:"
_FORM: Final = "HOST:PORT, unix:/SOCKET, udp:HOST:PORT, listen:... or forwarded:..."


class Service(enum.Enum):
    """What a listener on the far side does with a connection."""

    PLAIN = "plain"
    """It hands it to the side that asked for the listener."""
    SOCKS = "socks"
    """It is a SOCKS server, and hands on what its client asks for."""


@attrs.frozen
class Datagrams:
    """Datagrams to a port of a host."""

    target: Target

    def __str__(self) -> str:
        return f"{_UDP}{self.target}"


@attrs.frozen
class Listen:
    """A request to listen, for as long as the stream is open."""

    number: int
    """Chosen by the side that asks; names the request in `Forwarded`."""
    service: Service
    place: Place

    def __str__(self) -> str:
        place = self.place
        where = encode_path(place) if isinstance(place, UnixPath) else str(place)
        return f"{_LISTEN}{self.number}:{self.service.value}:{where}"


@attrs.frozen
class Forwarded:
    """A connection to such a listener, given to the side that asked for it."""

    number: int
    target: Target | Datagrams | None = None
    """What the client of a SOCKS server asked for."""

    def __str__(self) -> str:
        return f"{_FORWARDED}{self.number}:{self.target or ''}"


Asked: TypeAlias = Target | UnixPath | Datagrams | Listen | Forwarded


def encode(asked: AnyTarget | Datagrams | Listen | Forwarded) -> str:
    """Write the text of an OPEN."""
    return encode_path(asked) if isinstance(asked, UnixPath) else str(asked)


def encode_path(path: UnixPath) -> str:
    """Write a path; it stands last, so it needs no escapes."""
    return f"{_UNIX}{path.path}"


@functools.lru_cache(REMEMBERED)
def decode(text: str) -> Asked:
    """Read the text of an OPEN, which may be hostile. Raises SpecError."""
    if text.startswith(f"{_UNIX}/"):
        return _path(text)
    if text.startswith(_LISTEN) and text.count(":") > 1:
        return _listen(text)
    if text.startswith(_FORWARDED) and text.count(":") > 1:
        return _forwarded(text)
    return _target_or_datagrams(text)


def _target_or_datagrams(text: str) -> Target | Datagrams:
    # a host may be named udp: then there is one colon only
    if text.startswith(_UDP) and text.count(":") > 1:
        return Datagrams(_strict_target(text.removeprefix(_UDP)))
    return _strict_target(text)


def _strict_target(text: str) -> Target:
    target = parse_target(text)
    if ":" not in text:  # a port alone is for people
        raise _error(text)
    return target


def _path(text: str) -> UnixPath:
    return Syntax(text, "target", _FORM).path(text.removeprefix(_UNIX))


def _listen(text: str) -> Listen:
    number, _, rest = text.removeprefix(_LISTEN).partition(":")
    service, _, where = rest.partition(":")
    if service not in {s.value for s in Service}:
        raise _error(text)
    place = _path(where) if where.startswith(f"{_UNIX}/") else parse_place(where)
    if isinstance(place, UnixPath) and not where.startswith(_UNIX):
        raise _error(text)
    return Listen(_number(number, text), Service(service), place)


def _forwarded(text: str) -> Forwarded:
    number, _, rest = text.removeprefix(_FORWARDED).partition(":")
    target = _target_or_datagrams(rest) if rest else None
    return Forwarded(_number(number, text), target)


def _number(text: str, whole: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not 0 <= number <= MAX_NUMBER:
        raise _error(whole)
    return number


def _error(text: str) -> SpecError:
    return Syntax(text, "target", _FORM).error()
