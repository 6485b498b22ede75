"""`muxfs local`: a port whose connections are carried by a command."""

from __future__ import annotations

import argparse

from muxfs.cli.arguments import OUTPUT_HELP, add_output_options

HELP = f"""\
usage: muxfs local [options] PLACE -- COMMAND...

Listen on a port of this computer, and run COMMAND for each connection, joined to its
standard input and output. With `muxfs stdio` on a login node as the command, that leads
to a service on a compute node, also where the site forbids ssh's own port forwarding.

PLACE is [BIND:]PORT or the path of a Unix socket; port 0 is a free one, which is
printed.

options:
  --most NUMBER           commands that run at once (64); more connections wait
  --any-user              let other users of this computer use the port, too
{OUTPUT_HELP}
example:
  muxfs local 8888 -- ssh login muxfs stdio job42 localhost:8888
With ControlMaster and ControlPersist in ~/.ssh/config, all share one login.
"""

RUNS_A_COMMAND = True
MOST = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("place", metavar="PLACE")
    parser.add_argument("--most", type=_number, default=MOST, metavar="NUMBER")
    parser.add_argument("--any-user", action="store_true")
    add_output_options(parser)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10000")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run until the end. Raises Failure."""
    from muxfs.cli import commands  # noqa: PLC0415  (start-up time)

    return commands.serve(args)
