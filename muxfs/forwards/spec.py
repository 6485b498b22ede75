"""The syntax of forwards and targets, as people write it on command lines.

    FORWARD   PORT | [BIND:]PORT:PORT | PLACE:TARGET, after a letter of `Kind` or not
    PLACE     [BIND:]PORT | /SOCKET
    TARGET    PORT | HOST:PORT | /SOCKET

IPv6 addresses stand in brackets, and as with ssh all else may (`[%h]:%p`); what has a `/` in
it is the path of a Unix socket, in which a backslash takes the meaning off `:`, `,` and itself;
lists are separated by commas. `str()` of a value is its full form, which parses back to the
same value.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import ipaddress
import os
import re
from typing import Final, TypeAlias

import attrs

from muxfs.errors import printable

LOCALHOST = "localhost"
TARGET_HOST = "target"
"""`target:1` is the first TARGET of the dialling side, whichever port that has."""
ANY_ADDRESS = "*"
MAX_PORT = 65535
MAX_HOST = 253  # of a DNS name
MAX_PATH = 107
"""Bytes of a Unix socket's path: `sun_path` has 108 on Linux, with the zero byte."""

TARGET_FORM = "PORT, HOST:PORT or /SOCKET"
PLACE_FORM = "[BIND:]PORT or /SOCKET"

_PART = re.compile(r"\[([^][]*)]|((?:\\.|[^][:\\])*)", re.DOTALL)
_ITEM = re.compile(r"(?:\\.|[^,\\]|\\\Z)+|(?<![^,])(?=,|\Z)", re.DOTALL)
REMEMBERED: Final = 256
"""Texts of which is remembered what they mean: connections go to few targets, one after the other,
and an address costs 50 calls of Python to parse."""

_LETTER = re.compile(r"[LRDU](?=[\d*/[])")
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff,/@*?\[\]\\]")
_LOOPBACK = frozenset({LOCALHOST, "127.0.0.1", "::1"})


class SpecError(ValueError):
    """A forward or target that cannot be understood; `str()` is one sentence for people."""


@attrs.frozen
class Target:
    """A port of a host, to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def short(self) -> str:
        """The shortest form that parses back to the same value."""
        return str(self.port) if self.host == LOCALHOST else str(self)


@attrs.frozen
class UnixPath:
    """A Unix socket, to connect to or to listen on."""

    path: str

    def __str__(self) -> str:
        return re.sub(r"([\\:,\[\]])", r"\\\1", self.path)

    @property
    def short(self) -> str:
        """The shortest form that parses back to the same value."""
        return str(self)


@attrs.frozen
class Port:
    """A port to listen on."""

    number: int
    """0: the kernel picks a free one."""
    bind: str | None = None
    """None: the loopback addresses; "*": all addresses of the host."""

    def __str__(self) -> str:
        return (f"{bracketed(self.bind)}:" if self.bind is not None else "") + str(self.number)


Place: TypeAlias = Port | UnixPath
"""Where is listened."""
AnyTarget: TypeAlias = Target | UnixPath


class Kind(enum.Enum):
    """Which side listens, and for what; the value is the option's name."""

    LOCAL = "-L"
    """Here; the other side connects."""
    REMOTE = "-R"
    """There; this side connects. Without a target: there is a SOCKS server."""
    DYNAMIC = "-D"
    """Here, as a SOCKS server."""
    HTTP = "--http-proxy"
    """Here, as an HTTP proxy."""
    UDP = "-U"
    """Here, for datagrams."""


_PORTS_FORM: Final = "PORT, PORT:PORT, PORT:HOST:PORT or BIND:PORT:HOST:PORT"
FORMS: Final = {
    Kind.LOCAL: f"{_PORTS_FORM} (or /SOCKET for either end)",
    Kind.REMOTE: f"{_PORTS_FORM} (or /SOCKET for either end)",
    Kind.DYNAMIC: PLACE_FORM,
    Kind.HTTP: PLACE_FORM,
    Kind.UDP: _PORTS_FORM,
}


@attrs.frozen
class Forward:
    """One place to listen on, and where its connections go to."""

    place: Place
    target: AnyTarget | None = None
    """None: each client says it, as clients of a proxy do."""
    kind: Kind = Kind.LOCAL

    def __str__(self) -> str:
        return str(self.place) + (f":{self.target}" if self.target is not None else "")

    @property
    def option(self) -> str:
        """The option and its value, as a command line has them."""
        return f"{self.kind.value} {self}"


def parse_forwards(text: str, kind: Kind | None = None) -> tuple[Forward, ...]:
    """Parse a comma list of FORWARDs. Raises SpecError.

    kind: of the option that the list stands after; None for a list that is an argument
    by itself: local forwards, unless a letter says otherwise (`R8001:8000`).
    """
    form = FORMS[kind or Kind.LOCAL]
    return tuple(_forward(item, kind) for item in listed(text, "forward", form))


def parse_targets(text: str, *, free: bool = False) -> tuple[AnyTarget, ...]:
    """Parse a comma list of TARGETs. Raises SpecError.

    free: 0 is one of them, a port of localhost that is to be picked.
    """
    if free and text == "0":
        return (Target(LOCALHOST, 0),)
    return tuple(parse_any_target(item) for item in listed(text, "target", TARGET_FORM))


def parse_any_target(text: str) -> AnyTarget:
    """Parse one TARGET, also the path of a Unix socket. Raises SpecError."""
    syntax = Syntax(text, "target", TARGET_FORM, lenient=True)
    return syntax.target(syntax.parts())


def parse_target(text: str) -> Target:
    """Parse one TARGET that is a port. Raises SpecError."""
    syntax = Syntax(text, "target", "PORT or HOST:PORT")
    target = syntax.target(syntax.parts())
    if not isinstance(target, Target):
        raise syntax.error()
    return target


def parse_place(text: str) -> Place:
    """Parse one PLACE. Raises SpecError."""
    syntax = Syntax(text, "place to listen on", PLACE_FORM)
    return syntax.place(syntax.parts())


@functools.lru_cache(REMEMBERED)
def loopback_alike(host: str) -> str:
    """Give all spellings of an address one form, and all names of the loopback one name."""
    # not casefold, for which straße.example is strasse.example: two names (RFC 5891)
    name = host.lower()
    with contextlib.suppress(ValueError):
        name = str(ipaddress.ip_address(name))
    return LOCALHOST if name in _LOOPBACK else name


def bracketed(host: str) -> str:
    """Put an IPv6 address into brackets."""
    return f"[{host}]" if ":" in host else host


def _forward(text: str, kind: Kind | None) -> Forward:
    letter = _LETTER.match(text) if kind is None else None
    kind = Kind(f"-{letter[0]}") if letter else kind or Kind.LOCAL
    syntax = Syntax(text, "forward", FORMS[kind], lenient=True)
    parts = attrs.evolve(syntax, text=text[1:]).parts() if letter else syntax.parts()
    match kind, parts:
        case ((Kind.DYNAMIC | Kind.HTTP), _):
            return Forward(syntax.place(parts), None, kind)
        case Kind.REMOTE, [_]:
            return Forward(syntax.place(parts), None, Kind.REMOTE)
        case Kind.REMOTE, [str(bind), str()] if not bind.isdecimal():
            return Forward(syntax.place(parts), None, Kind.REMOTE)
        case ((Kind.LOCAL | Kind.UDP), [str(port)]):
            number = syntax.port(port)
            return Forward(Port(number), Target(LOCALHOST, number), kind)
    place, target = _halves(parts)
    forward = Forward(syntax.place(place), syntax.target(target), kind)
    if kind is Kind.UDP and not (
        isinstance(forward.place, Port) and isinstance(forward.target, Target)
    ):
        raise syntax.error("Unix sockets carry no datagrams here")
    return forward


def _halves(parts: list[str | UnixPath]) -> tuple[list[str | UnixPath], list[str | UnixPath]]:
    """Split into what says where to listen and what says where to connect to."""
    if isinstance(parts[-1], UnixPath):
        return parts[:-1], parts[-1:]
    if isinstance(parts[0], UnixPath):
        return parts[:1], parts[1:]
    middle = len(parts) // 2
    return parts[:middle], parts[middle:]


def listed(text: str, what: str, form: str) -> list[str]:
    """Split a comma list; a backslash takes the meaning off a comma. Raises SpecError."""
    items = [item.strip() for item in _ITEM.findall(text)]
    if not items or not all(items):
        raise SpecError(f"{text!r}: an empty {what}; a {what} is {form}")
    return items


@attrs.frozen
class Syntax:
    """One spec under examination, and how to complain about it."""

    text: str
    what: str
    form: str
    lenient: bool = False
    """Whether brackets may hold all that could stand without them."""

    def error(self, why: str = "") -> SpecError:
        """Make the exception to raise."""
        reason = f"{why}; " if why else ""
        return SpecError(f"{self.text!r} is not a {self.what}: {reason}it must be {self.form}")

    def parts(self) -> list[str | UnixPath]:
        """Split at the colons outside of brackets. Raises SpecError."""
        parts: list[str | UnixPath] = []
        at = 0
        while True:
            found = _PART.match(self.text, at)
            assert found is not None  # noqa: S101  # the pattern matches the empty string
            inside, plain = found.groups()
            parts.append(self._plain(plain) if inside is None else self._bracketed(inside))
            at = found.end()
            if at == len(self.text):
                break
            if self.text[at] != ":":
                raise self.error("a bracket stands where none can, or a backslash at the end")
            at += 1
        if len(parts) > 4:
            raise self.error("IPv6 addresses need brackets, as in [::1]:8888")
        return parts

    def _plain(self, text: str) -> str | UnixPath:
        return self.path(re.sub(r"\\(.)", r"\1", text)) if "/" in text else text

    def _bracketed(self, text: str) -> str | UnixPath:
        if self.lenient and "/" in text:
            return self.path(text)
        return self.host(text) if self.lenient and ":" not in text else self.address(text)

    def address(self, text: str) -> str:
        """Check what stands in brackets. Raises SpecError."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise self.error(f"[{printable(text)}] is not an IPv6 address") from None
        if address.version == 4 or _FORBIDDEN.search(text):
            raise self.error(f"[{printable(text)}] is not an IPv6 address")
        return text

    def place(self, parts: list[str | UnixPath]) -> Place:
        """Make the place of its parts. Raises SpecError."""
        match parts:
            case [UnixPath() as path]:
                return path
            case [str(port)]:
                return Port(self.port(port, lowest=0))
            case [str(bind), str(port)]:
                return Port(self.port(port, lowest=0), self.bind(bind))
            case _:
                raise self.error()

    def target(self, parts: list[str | UnixPath]) -> AnyTarget:
        """Make the target of its parts. Raises SpecError."""
        match parts:
            case [UnixPath() as path]:
                return path
            case [str(port)]:
                return Target(LOCALHOST, self.port(port))
            case [str(host), str(port)]:
                return Target(self.host(host), self.port(port))
            case _:
                raise self.error()

    def port(self, text: str, lowest: int = 1) -> int:
        """Parse the number of a port. Raises SpecError."""
        # isdecimal: int() would take signs, spaces, underscores
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1
        if not lowest <= number <= MAX_PORT:
            raise self.error(f"{text!r} is not a port number from {lowest} to {MAX_PORT}")
        return number

    def host(self, text: str) -> str:
        """Check the name or address of a host. Raises SpecError."""
        if not text or text == ANY_ADDRESS:
            raise self.error("the host is missing")
        if len(text.encode("utf-8", "replace")) > MAX_HOST or _FORBIDDEN.search(text):
            raise self.error(f"{text!r} is not a host name")
        return text

    def bind(self, text: str) -> str:
        """Check an address to listen on. Raises SpecError."""
        # ssh: an empty bind address is every address, too
        return ANY_ADDRESS if text in {"", ANY_ADDRESS} else self.host(text)

    def path(self, text: str) -> UnixPath:
        """Check the path of a Unix socket. Raises SpecError."""
        normal = os.path.normpath(text) == text and text[1:2] not in {"", "/"}
        if not (text.isprintable() and os.path.isabs(text) and normal):
            raise self.error(f"{text!r} is not an absolute path in its shortest form")
        if len(os.fsencode(text)) > MAX_PATH:
            raise self.error(f"the path of a socket has at most {MAX_PATH} bytes")
        return UnixPath(text)
