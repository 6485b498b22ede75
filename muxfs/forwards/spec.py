"""The syntax of forwards and targets, as people write it on command lines.

    FORWARD   PORT | PORT:PORT | PORT:HOST:PORT | BIND:PORT:HOST:PORT
    TARGET    PORT | HOST:PORT

IPv6 addresses stand in brackets; lists are separated by commas. `str()` of a
value is its full form, which parses back to the same value.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re

import attrs

LOCALHOST = "localhost"
ANY_ADDRESS = "*"
MAX_PORT = 65535
MAX_HOST = 253  # of a DNS name

FORWARD_FORM = "PORT, PORT:PORT, PORT:HOST:PORT or BIND:PORT:HOST:PORT"
TARGET_FORM = "PORT or HOST:PORT"

_PART = re.compile(r"\[([^][]*)]|([^][:]*)")
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff,/@\[\]]")
_LOOPBACK = frozenset({LOCALHOST, "127.0.0.1", "::1"})


class SpecError(ValueError):
    """A forward or target that cannot be understood; `str()` is one sentence for people."""


@attrs.frozen
class Target:
    """Where the dialling side connects to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def short(self) -> str:
        """The shortest form that parses back to the same value."""
        return str(self.port) if self.host == LOCALHOST else str(self)


@attrs.frozen
class Forward:
    """One port to listen on, and where its connections go to."""

    port: int
    """0: the kernel picks a free one."""
    target: Target
    bind: str | None = None
    """None: the loopback addresses; "*": all addresses of the host."""

    def __str__(self) -> str:
        bind = "" if self.bind is None else f"{_bracketed(self.bind)}:"
        return f"{bind}{self.port}:{self.target}"


def parse_forwards(text: str) -> tuple[Forward, ...]:
    """Parse a comma list of FORWARDs. Raises SpecError."""
    return tuple(_forward(item) for item in _listed(text, "forward", FORWARD_FORM))


def parse_targets(text: str) -> tuple[Target, ...]:
    """Parse a comma list of TARGETs. Raises SpecError."""
    return tuple(parse_target(item) for item in _listed(text, "target", TARGET_FORM))


def parse_target(text: str) -> Target:
    """Parse one TARGET. Raises SpecError."""
    syntax = _Syntax(text, "target", TARGET_FORM)
    match syntax.parts():
        case [port]:
            return Target(LOCALHOST, syntax.port(port))
        case [host, port]:
            return Target(syntax.host(host), syntax.port(port))
        case _:
            raise syntax.error()


def loopback_alike(host: str) -> str:
    """Give all spellings of an address one form, and all names of the loopback one name."""
    name = host.casefold()
    with contextlib.suppress(ValueError):
        name = str(ipaddress.ip_address(name))
    return LOCALHOST if name in _LOOPBACK else name


def _forward(text: str) -> Forward:
    syntax = _Syntax(text, "forward", FORWARD_FORM)
    match syntax.parts():
        case [port]:
            number = syntax.port(port)
            return Forward(number, Target(LOCALHOST, number))
        case [port, target_port]:
            return Forward(syntax.port(port, lowest=0), Target(LOCALHOST, syntax.port(target_port)))
        case [port, host, target_port]:
            target = Target(syntax.host(host), syntax.port(target_port))
            return Forward(syntax.port(port, lowest=0), target)
        case [bind, port, host, target_port]:
            target = Target(syntax.host(host), syntax.port(target_port))
            return Forward(syntax.port(port, lowest=0), target, syntax.bind(bind))
        case _:
            raise syntax.error()


def _listed(text: str, what: str, form: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise SpecError(f"{text!r}: an empty {what}; a {what} is {form}")
    return items


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@attrs.frozen
class _Syntax:
    """One spec under examination, and how to complain about it."""

    text: str
    what: str
    form: str

    def error(self, why: str = "") -> SpecError:
        reason = f"{why}; " if why else ""
        return SpecError(f"{self.text!r} is not a {self.what}: {reason}it must be {self.form}")

    def parts(self) -> list[str]:
        """Split at the colons outside of brackets."""
        parts: list[str] = []
        at = 0
        while True:
            found = _PART.match(self.text, at)
            assert found is not None  # noqa: S101  # the pattern matches the empty string
            inside, plain = found.groups()
            parts.append(plain if inside is None else self._address(inside))
            at = found.end()
            if at == len(self.text):
                break
            if self.text[at] != ":":
                raise self.error("a bracket stands where none can")
            at += 1
        if len(parts) > 4:
            raise self.error("IPv6 addresses need brackets, as in [::1]:8888")
        return parts

    def _address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise self.error(f"[{text}] is not an IPv6 address") from None
        if address.version == 4 or _FORBIDDEN.search(text):
            raise self.error(f"[{text}] is not an IPv6 address")
        return text

    def port(self, text: str, lowest: int = 1) -> int:
        # isdecimal: int() would take signs, spaces, underscores
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1
        if not lowest <= number <= MAX_PORT:
            raise self.error(f"{text!r} is not a port number from {lowest} to {MAX_PORT}")
        return number

    def host(self, text: str) -> str:
        if not text or text == ANY_ADDRESS:
            raise self.error("the host is missing")
        if len(text.encode("utf-8", "replace")) > MAX_HOST or _FORBIDDEN.search(text):
            raise self.error(f"{text!r} is not a host name")
        return text

    def bind(self, text: str) -> str:
        # ssh: an empty bind address is every address, too
        return ANY_ADDRESS if text in {"", ANY_ADDRESS} else self.host(text)
