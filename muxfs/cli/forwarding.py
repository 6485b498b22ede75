"""From parsed arguments to forwards and to what this side consents to."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from muxfs.cli.failures import NO_PERMISSION, UNAVAILABLE, USAGE, Failure, exit_code_of
from muxfs.forwards.consent import FREE_LOOPBACK_PORTS, LOCAL_PORTS, Policy
from muxfs.forwards.patterns import exactly, parse_allow_listens, parse_allows
from muxfs.forwards.ports import why_not_open
from muxfs.forwards.spec import (
    Forward,
    Kind,
    SpecError,
    parse_forwards,
    parse_targets,
)

NOTHING_TO_DO: Final = (
    "nothing to do: give a FORWARD such as 8888, one of -L, -R, -D, -U, --http-proxy, "
    "what the other side may ask for, --allow or --allow-listen, or --persist "
    "(see muxfs listen --help)"
)

T = TypeVar("T")


def forwards(args: argparse.Namespace) -> tuple[Forward, ...]:
    """Return the forwards that were asked for, in order. Raises Failure."""
    found = _parsed(parse_forwards, getattr(args, "forwards", []))
    for option, text in args.forward_options:
        try:
            found += parse_forwards(text, Kind(option))
        except SpecError as error:
            raise Failure(f"{option} {error}", USAGE) from error
    return found


def policy(role: Literal["listen", "dial"], args: argparse.Namespace) -> Policy:
    """Return what this side is willing to do for the other one. Raises Failure."""
    allow = _parsed(parse_allows, args.allow, "--allow ")
    allow_listen = _parsed(parse_allow_listens, args.allow_listen, "--allow-listen ")
    if role == "dial":
        targets = _parsed(parse_targets, args.targets)
        allow = (tuple(map(exactly, targets)) or LOCAL_PORTS) + allow
        allow_listen = allow_listen or FREE_LOOPBACK_PORTS
    elif not (args.forwards or args.forward_options or allow or allow_listen or args.persist):
        raise Failure(NOTHING_TO_DO, USAGE)
    return Policy(allow, allow_listen, allow_said=bool(args.allow), command=f"muxfs {role}")


def explain(forward: Forward, error: OSError) -> Failure:
    """Put into words why a forward's place is not open."""
    code = exit_code_of(error)
    if isinstance(error, PermissionError):
        code = NO_PERMISSION  # those of ours have no number
    elif isinstance(error, socket.gaierror):
        code = UNAVAILABLE  # its numbers are not those of errno
    return Failure(why_not_open(forward, error), code)


def _parsed(
    parse: Callable[[str], tuple[T, ...]], texts: list[str], option: str = ""
) -> tuple[T, ...]:
    try:
        return tuple(value for text in texts for value in parse(text))
    except SpecError as error:
        raise Failure(f"{option}{error}", USAGE) from error
