"""From parsed arguments to what a session and its output need."""

from __future__ import annotations

import argparse
import math

from muxfs.cli import seals
from muxfs.cli.failures import USAGE, Failure
from muxfs.cli.output import NORMAL, QUIET, VERBOSE, Output
from muxfs.config import LEAST_TIMEOUT, MAX_TIME, SessionConfig
from muxfs.core.polling import PollPolicy
from muxfs.core.wire import MAX_CAPACITY, MIN_CAPACITY, PAGE
from muxfs.storage.access import Access, UnknownStrategy
from muxfs.storage.budget import LEAST_OPERATIONS
from muxfs.units import amount


def output(args: argparse.Namespace) -> Output:
    """Return where the command's words go."""
    level = QUIET if args.quiet else VERBOSE if args.verbose else NORMAL
    return Output(json=args.json, level=level)


def session_config(args: argparse.Namespace, limit: float = math.inf) -> SessionConfig:
    """Return the session's configuration. Raises Failure.

    limit: seconds to wait for the key's file server; an end of a tunnel waits as long as it takes.
    """
    default = SessionConfig()
    return SessionConfig(
        capacity=default.capacity if args.ring is None else capacity(args.ring),
        peer_timeout=default.peer_timeout if args.peer_timeout is None else _patience(args),
        poll=default.poll if args.poll is None else PollPolicy(*args.poll),
        max_ops=None if args.max_ops is None else _most_operations(args.max_ops),
        access=None if args.access is None else access(args.access),
        any_owner=args.insecure_dir,
        takeover=args.takeover,
        key=seals.key(args.key_file, limit=limit),
        label=args.label,
    )


def _patience(args: argparse.Namespace) -> float:
    seconds = float(args.peer_timeout)
    if seconds and not LEAST_TIMEOUT <= seconds <= MAX_TIME:
        raise Failure(f"--peer-timeout: {seconds:g} s is not 0, nor from 0.5 s to 1 h", USAGE)
    return seconds


def _most_operations(number: float) -> float:
    if not number >= LEAST_OPERATIONS:
        least = f"fewer than {LEAST_OPERATIONS:g} operations a second"
        raise Failure(
            f"--max-ops: {number:g} is too little: {least} cannot keep a tunnel up", USAGE
        )
    return number


def capacity(size: int) -> int:
    """Check the size of a ring, and round it up to whole pages. Raises Failure."""
    if not MIN_CAPACITY <= size <= MAX_CAPACITY:
        limits = f"from {amount(MIN_CAPACITY)} to {amount(MAX_CAPACITY)}"
        raise Failure(f"--ring: {amount(size)} is not {limits}", USAGE)
    return -(-size // PAGE) * PAGE


def access(text: str) -> Access | None:
    """Parse READ+WRITE, such as `direct+dsync`; None for `auto`. Raises Failure."""
    if text == "auto":
        return None
    try:
        return Access.named(text)
    except UnknownStrategy as error:
        raise Failure(f"--access: {error}", USAGE) from None
