"""The patterns of --allow and --allow-listen: hosts by name, glob and network, ports, paths.

    --allow         [HOST:]PORTS | /SOCKET
    --allow-listen  [BIND:]PORTS | /SOCKET
    HOST, BIND      * | name, also with * and ? | address | NETWORK/BITS; none: localhost
    PORTS           * | PORT | PORT-PORT

A name pattern speaks of the name that is asked for, whatever it resolves to; a network
or address speaks of addresses, whatever names lead there. In a path * and ? are wildcards
within one part, and a backslash takes the meaning off them, a comma and itself.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import re
import socket
from typing import Final, TypeAlias

import attrs

from muxfs.forwards.spec import (
    ANY_ADDRESS,
    LOCALHOST,
    MAX_PORT,
    REMEMBERED,
    Syntax,
    Target,
    UnixPath,
    listed,
    loopback_alike,
)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

ALLOW_FORM: Final = "[HOST:]PORTS or /SOCKET, such as *:*, *.example.org:443, 10.0.0.0/8:8000-8999"
LISTEN_FORM: Final = "[BIND:]PORTS or /SOCKET, such as 8080, *:8000-8999"
LEAST_FREE_PORT: Final = 1024
"""Lower ports are not for ordinary users."""

_HOST_PORTS = re.compile(r"(?:(?P<host>\[[^][]*\](?:/\d+)?|[^][:]*):)?(?P<ports>[^:]*)")
_NUMERIC = re.compile(r"[\d.*?]*[\d.?][\d.*?]*")
_ESCAPED = re.compile(r"\\(.)|\[", re.DOTALL)
_WILD: Final = frozenset("*?")


def address_of(host: str) -> Address | None:
    """Return the address that the text of a host is; None for a name."""
    try:
        return parse_address(host)
    except ValueError:
        pass
    try:  # 10.5 and 0x0a000005 are no names either, to any resolver (inet_aton(3))
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


@functools.lru_cache(REMEMBERED)
def parse_address(text: str) -> Address:
    """Parse an address. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped  # ::ffff:127.0.0.1 leads where 127.0.0.1 does
    return address


def leads_home(address: Address) -> bool:
    """Whether connecting to the address ends on this host."""
    return address.is_loopback or address.is_unspecified


def normal(host: str) -> str:
    """Give all spellings of a name or address one form."""
    return loopback_alike(host.removesuffix("."))


@attrs.frozen
class Hosts:
    """What hosts a pattern is for: all of them, or one of the following."""

    name: str = ""
    """One name or address, as `normal` gives it."""
    glob: str = ""
    """Names with wildcards, which may not lead to the loopback: that must be said."""
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None

    def names(self, host: str) -> bool:
        """Whether the host is allowed by its text alone, whatever it resolves to."""
        return self == Hosts() or normal(host) == self.name

    def may_cover(self, host: str) -> bool:
        """Whether it depends on what the name resolves to."""
        return self.network is not None or fnmatch.fnmatchcase(normal(host), self.glob)

    def covers(self, host: str, address: Address) -> bool:
        """Whether this address, of that host, is allowed."""
        if self.network is not None:
            return address in self.network
        # an address is no name: *.5 is not for 10.0.0.5
        return self.may_cover(host) and not (leads_home(address) or address_of(host))


@attrs.frozen
class Pattern:
    """Ports of hosts."""

    hosts: Hosts
    first: int
    last: int
    text: str

    def __str__(self) -> str:
        return self.text

    def has_port(self, port: int) -> bool:
        """Whether it is for this port. 0, any free one, asks for all free ones."""
        if not port:
            return self.first <= LEAST_FREE_PORT and self.last == MAX_PORT
        return self.first <= port <= self.last


@attrs.frozen
class PathPattern:
    """Unix sockets: a path in which * and ? match all but a slash."""

    glob: str
    """As fnmatch wants it: `[*]`, `[?]` and `[[]` are these letters themselves."""

    def __str__(self) -> str:
        return re.sub(r"\[([*?[])]|([\\:,\]])", r"\\\1\2", self.glob)

    def matches(self, path: str) -> bool:
        """Whether it is for this socket."""
        parts, globs = path.split("/"), self.glob.split("/")
        return len(parts) == len(globs) and all(map(fnmatch.fnmatchcase, parts, globs))


AnyPattern: TypeAlias = Pattern | PathPattern


def exactly(target: Target | UnixPath) -> AnyPattern:
    """Make the pattern for one target."""
    if isinstance(target, UnixPath):
        return PathPattern(_literal(target.path))
    return Pattern(Hosts(name=normal(target.host)), target.port, target.port, str(target))


def _unescaped(found: re.Match[str]) -> str:
    return _literal(found[1] or found[0])


def _literal(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)


def parse_allow(text: str) -> AnyPattern:
    """Parse a pattern of --allow. Raises SpecError."""
    return _parse(Syntax(text, "pattern", ALLOW_FORM))


def parse_allows(text: str) -> tuple[AnyPattern, ...]:
    """Parse a comma list of them. Raises SpecError."""
    return tuple(map(parse_allow, listed(text, "pattern", ALLOW_FORM)))


def parse_allow_listen(text: str) -> AnyPattern:
    """Parse a pattern of --allow-listen. Raises SpecError."""
    return _parse(Syntax(text, "pattern", LISTEN_FORM))


def parse_allow_listens(text: str) -> tuple[AnyPattern, ...]:
    """Parse a comma list of them. Raises SpecError."""
    return tuple(map(parse_allow_listen, listed(text, "pattern", LISTEN_FORM)))


def _parse(syntax: Syntax) -> AnyPattern:
    text = syntax.text.strip()
    if text.startswith("/"):
        return PathPattern(syntax.path(_ESCAPED.sub(_unescaped, text)).path)
    found = _HOST_PORTS.fullmatch(text)
    if not found:
        raise syntax.error("IPv6 addresses need brackets, as in [::1]:* or [fd00::]/8:*")
    host = LOCALHOST if found["host"] is None else found["host"]
    if not host:
        raise syntax.error("the host is missing")
    first, last = _ports(found["ports"], syntax)
    return Pattern(_hosts(host, syntax), first, last, text)


def _ports(text: str, syntax: Syntax) -> tuple[int, int]:
    if text == "*":
        return 1, MAX_PORT
    low, dash, high = text.partition("-")
    first = syntax.port(low)
    last = syntax.port(high) if dash else first
    if last < first:
        raise syntax.error(f"{text!r} is no range of ports")
    return first, last


def _hosts(text: str, syntax: Syntax) -> Hosts:
    if text == ANY_ADDRESS:
        return Hosts()
    inner = text.replace("[", "").replace("]", "")
    if "/" in text:
        return Hosts(network=_network(inner, syntax))
    if text != inner:
        syntax.address(inner)
    elif _WILD & set(text):
        if _NUMERIC.fullmatch(text):
            # 10.1.* would also be for the name 10.1.evil.example
            raise syntax.error(f"{text!r}: write a network, such as 10.1.0.0/16")
        syntax.host(inner.replace("*", "x").replace("?", "x"))
        return Hosts(glob=text.lower().removesuffix("."))
    syntax.host(inner)
    address = address_of(inner)
    # networks know no scope: fe80::1%eth0 and fe80::1%eth1 are two hosts
    if address is not None and "%" not in inner and normal(inner) != LOCALHOST:
        return Hosts(network=ipaddress.ip_network(address))
    return Hosts(name=normal(inner))


def _network(text: str, syntax: Syntax) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise syntax.error(str(error)) from None
