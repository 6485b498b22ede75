"""From parsed arguments to forwards and to what this side consents to."""

from __future__ import annotations

import argparse
import functools
import socket
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from muxfs.cli import child
from muxfs.cli.failures import NO_PERMISSION, UNAVAILABLE, USAGE, Failure, exit_code_of
from muxfs.forwards.consent import FREE_LOOPBACK_PORTS, LOCAL_PORTS, Policy
from muxfs.forwards.patterns import exactly, parse_allow_listens, parse_allows
from muxfs.forwards.ports import why_not_open
from muxfs.forwards.spec import (
    TARGET_HOST,
    AnyTarget,
    Forward,
    Kind,
    Port,
    SpecError,
    Target,
    parse_forwards,
    parse_targets,
)

NOTHING_TO_DO: Final = (
    "nothing to do: give a FORWARD such as 8888 after the TUNNEL, or one of -L, -R, -D, -U, "
    "--http-proxy, what the other side may ask for, --allow or --allow-listen, or --persist "
    "(see muxfs listen --help)"
)

T = TypeVar("T")


def forwards(args: argparse.Namespace) -> tuple[Forward, ...]:
    """Return the forwards that were asked for, in order. Raises Failure."""
    words = getattr(args, "forwards", None)
    if words == [] and getattr(args, "job", None) and not _asked(args):
        return (Forward(Port(0), Target(TARGET_HOST, 1)),)
    found = _parsed(parse_forwards, words or [])
    for option, text in args.forward_options:
        try:
            found += parse_forwards(text, Kind(option))
        except SpecError as error:
            raise Failure(f"{option} {error}", USAGE) from error
    return found


def _asked(args: argparse.Namespace) -> bool:
    """Whether options of `muxfs listen` give it something to do."""
    return bool(args.forward_options or args.allow or args.allow_listen or args.persist)


def policy(role: Literal["listen", "dial"], args: argparse.Namespace) -> Policy:
    """Return what this side is willing to do for the other one. Raises Failure."""
    allow = _parsed(parse_allows, args.allow, "--allow ")
    allow_listen = _parsed(parse_allow_listens, args.allow_listen, "--allow-listen ")
    targets: tuple[AnyTarget, ...] = ()
    if role == "dial":
        targets = _targets(args)
        allow = (tuple(map(exactly, targets)) or LOCAL_PORTS) + allow
        allow_listen = allow_listen or FREE_LOOPBACK_PORTS
    elif not (args.forwards or args.job or _asked(args)):
        raise Failure(NOTHING_TO_DO, USAGE)
    return Policy(allow, allow_listen, bool(args.allow), f"muxfs {role}", targets)


def _targets(args: argparse.Namespace) -> tuple[AnyTarget, ...]:
    if not args.command:
        return _parsed(parse_targets, args.targets)
    parse = functools.partial(parse_targets, free=True)
    return child.with_ports(_parsed(parse, [child.filled(text) for text in args.targets]))


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
