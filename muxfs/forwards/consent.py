"""What this side is willing to do for the other one: what it dials, and where it listens.

Rule 1: a name is not even resolved unless what it resolves to could be allowed.
Rule 2: of a name that only its addresses allow, only the allowed addresses are dialled.
Rule 3: a refusal names the option that would allow it.
"""

from __future__ import annotations

import shlex
from typing import Final

import attrs

from muxfs.core.wire import Code
from muxfs.forwards.patterns import (
    LEAST_FREE_PORT,
    Address,
    AnyPattern,
    PathPattern,
    Pattern,
    address_of,
    exactly,
    parse_allow,
    parse_allow_listen,
)
from muxfs.forwards.spec import (
    LOCALHOST,
    MAX_PORT,
    TARGET_HOST,
    AnyTarget,
    Place,
    Port,
    Target,
    UnixPath,
    bracketed,
)

MOST_TARGETS: Final = 99
"""Those that can be named by their number."""
LOCAL_PORTS: Final = (parse_allow("localhost:*"),)
"""What `muxfs dial` dials if nothing else is said."""
EVERYTHING: Final = (parse_allow("*:*"),)
FREE_LOOPBACK_PORTS: Final = tuple(
    parse_allow_listen(text) for text in ("1024-65535", "127.0.0.0/8:1024-65535")
)
"""Where `muxfs dial` listens for the other side if nothing else is said."""


@attrs.frozen
class Refusal:
    """Why something was not done, as it is told to the far side."""

    code: Code
    reason: str


@attrs.frozen
class Policy:
    """What this side is willing to do for the other one."""

    allow: tuple[AnyPattern, ...] = ()
    """What may be dialled, by TCP and by UDP."""
    allow_listen: tuple[AnyPattern, ...] = ()
    """Where may be listened."""
    allow_said: bool = False
    """Whether the user gave patterns, which then bound the clients of an own -R PORT, too."""
    command: str = "muxfs dial"
    """What would take the options that a refusal names."""
    targets: tuple[AnyTarget, ...] = ()
    """What the other side may call `target:1`, `target:2` and so on."""

    def meant(self, target: AnyTarget) -> AnyTarget | Refusal:
        """Return what a target means that may be named by its number."""
        if not isinstance(target, Target) or target.host != TARGET_HOST:
            return target
        if target.port <= len(self.targets):
            return self.targets[target.port - 1]
        if target.port > MOST_TARGETS:
            return target  # a host of that name
        count = len(self.targets) or "no"
        return Refusal(Code.PROHIBITED, f"{target}: {self.command} was given {count} TARGET")

    @property
    def of_own_socks(self) -> Policy:
        """What the far side's clients may reach through a SOCKS server that this side wants.

        Asking for one says that they may reach anything, as with ssh.
        """
        return self if self.allow_said else attrs.evolve(self, allow=EVERYTHING)

    def refusal(self, target: AnyTarget) -> Refusal | None:
        """Return None for a target that may be resolved or dialled; else what to tell."""
        if isinstance(target, UnixPath):
            if any(p.matches(target.path) for p in self._paths(self.allow)):
                return None
        elif self._may_lead_to(target):
            return None
        return self._no(f"{target}: not allowed", "--allow", str(exactly(target)))

    def allows(self, target: Target, address: Address) -> bool:
        """Whether this address, to which the target's name resolved, may be dialled."""
        return any(
            p.hosts.names(target.host) or p.hosts.covers(target.host, address)
            for p in self._for_port(target.port)
        )

    def no_address(self, target: Target, address: Address) -> Refusal:
        """Return what to tell if `allows` says no to all addresses of a name."""
        allowing = Target(str(address), target.port)
        words = f"{target}: it resolves to {address}, which is not allowed"
        return self._no(words, "--allow", str(allowing))

    def listen_refusal(self, place: Place) -> Refusal | None:
        """Return None for a place where may be listened for the far side; else what to tell."""
        option, words = "--allow-listen", "not allowed"
        if isinstance(place, UnixPath):
            if any(p.matches(place.path) for p in self._paths(self.allow_listen)):
                return None
            return self._no(f"{place}: {words}", option, pattern_for(place))
        bind = LOCALHOST if place.bind is None else place.bind
        if any(_is_for(p, bind, place) for p in self.allow_listen if isinstance(p, Pattern)):
            return None
        return self._no(f"{place}: {words}", option, pattern_for(place))

    def _may_lead_to(self, target: Target) -> bool:
        address = address_of(target.host)
        for pattern in self._for_port(target.port):
            hosts = pattern.hosts
            if hosts.names(target.host):
                return True
            if address is None and hosts.may_cover(target.host):
                return True
            if address is not None and hosts.covers(target.host, address):
                return True
        return False

    def _for_port(self, port: int) -> list[Pattern]:
        return [p for p in self.allow if isinstance(p, Pattern) and p.has_port(port)]

    @staticmethod
    def _paths(patterns: tuple[AnyPattern, ...]) -> list[PathPattern]:
        return [p for p in patterns if isinstance(p, PathPattern)]

    def _no(self, words: str, option: str, pattern: str) -> Refusal:
        hint = f"{self.command} {option} {shlex.quote(pattern)} would allow it"
        return Refusal(Code.PROHIBITED, f"{words}; {hint}")


def pattern_for(place: Place) -> str:
    """Return the pattern of --allow-listen that is just for a place."""
    if isinstance(place, UnixPath):
        return str(exactly(place))
    if place.number:
        return str(place)
    bind = "" if place.bind is None else f"{bracketed(place.bind)}:"
    return f"{bind}{LEAST_FREE_PORT}-{MAX_PORT}"


def _is_for(pattern: Pattern, bind: str, place: Port) -> bool:
    address = address_of(bind)
    named = pattern.hosts.names(bind) or (
        address is not None and pattern.hosts.covers(bind, address)
    )
    return named and pattern.has_port(place.number)
