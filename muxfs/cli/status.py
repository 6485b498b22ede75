"""`muxfs status`: both ends of tunnels, from their mailbox files alone."""

from __future__ import annotations

import argparse

HELP = """\
usage: muxfs status [--json] [--watch] [--key-file FILE] [TUNNEL]

Show both ends of a tunnel: who runs them since when, whether they are connected, and
their traffic, as they tell in their mailbox files; without TUNNEL, a line for each of
all tunnels in ~/.muxfs (or $MUXFS_HOME). Works on every host that sees the directory,
and disturbs nobody. Takes some seconds where an end runs on another host, to see it
alive. Also shows the state and node of a Slurm job whose tunnel it is, and ports open
here.

  --json           one JSON object, with all of each tunnel (see docs/control.md)
  --watch          again and again, until Ctrl-C
  --key-file FILE  the key of sealed sessions: without it only what anybody can read
                   is shown of them (or: MUXFS_KEY_FILE)
  -h, --help       this text

states:
  established   both ends live and know each other
  silent        they were, and one gives no sign of life
  waiting       one end lives and waits for the other
  ended         no end lives
  no answer     its filesystem hangs: only what the ends on this host say is shown,
                and the exit code is 74 if TUNNEL was given
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("tunnel", metavar="TUNNEL", nargs="?")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--key-file", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Print it. Raises Failure."""
    from muxfs.cli import patience, seals, survey  # noqa: PLC0415  (start-up time)

    key = seals.key(args.key_file, limit=patience.STILL)
    run = survey.follow if args.watch else survey.show
    return run(args.tunnel, as_json=args.json, key=key)
