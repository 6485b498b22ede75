"""Where the clients of a listener go: to one target, or where they say in a greeting."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from muxfs.forwards.greeting import Greeting
from muxfs.forwards.socks import SocksGreeting
from muxfs.forwards.spec import Forward, Kind, Target
from muxfs.forwards.targets import Datagrams, Forwarded, Listen, Service, encode


@attrs.frozen
class Route:
    """Where the clients of a listener go."""

    target: str = ""
    """The text of their streams' OPEN; "" where a greeting says it."""
    greeting: Callable[[], Greeting] | None = None
    number: int | None = None
    """Of the request of the far side for this listener."""

    def text(self, target: str) -> str:
        """Return the text of an OPEN for a target."""
        return target if self.number is None else f"{Forwarded(self.number)}{target}"


def route_of(forward: Forward) -> Route:
    """Return the route of a forward whose listener is on this side."""
    match forward.kind, forward.target:
        case Kind.DYNAMIC, None:
            return Route(greeting=SocksGreeting)
        case Kind.HTTP, None:
            # only when it is used: h11 takes longer to import than all of SOCKS
            from muxfs.forwards.http_proxy import HttpGreeting  # noqa: PLC0415

            return Route(greeting=HttpGreeting)
        case Kind.UDP, Target() as target:
            return Route(str(Datagrams(target)))
        case Kind.LOCAL, target if target is not None:
            return Route(encode(target))
    raise ValueError(f"{forward.option}: its listener is not on this side")


def route_of_request(asked: Listen) -> Route:
    """Return the route of a listener that the far side asked for."""
    if asked.service is Service.SOCKS:
        return Route(greeting=SocksGreeting, number=asked.number)
    return Route(number=asked.number)
