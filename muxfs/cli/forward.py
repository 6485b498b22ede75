"""`muxfs forward`: forwards of an end that runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from muxfs.cli.arguments import FORWARDS_HELP, add_forward_options
from muxfs.cli.failures import UNAVAILABLE, USAGE, Failure

if TYPE_CHECKING:
    from muxfs.control.client import End
    from muxfs.control.protocol import Message

HELP = f"""\
usage: muxfs forward [options] TUNNEL [FORWARD...]

Add forwards to the `muxfs listen` or `muxfs dial` that runs on this host, or cancel
some; without any, list those that it has. Connections of a forward that is cancelled
go on to their end.

TUNNEL and FORWARD are as for `muxfs listen`; 8888 is -L 8888:localhost:8888.

{FORWARDS_HELP}\
options:
  --cancel                cancel these forwards; port 0 may be named by the port it got
  --side listen|dial      of the end, where both run on this host
  --pid PID               of the end, where several run on this host
  --json                  one JSON object on stdout
  -h, --help              this text

examples:
  muxfs forward job42 -L 8888:localhost:8888
  muxfs forward job42 --cancel -L 8888:localhost:8888
  muxfs forward job42
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("tunnel", metavar="TUNNEL")
    parser.add_argument("forwards", metavar="FORWARD", nargs="*")
    add_forward_options(parser)
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("--side", choices=("listen", "dial"))
    parser.add_argument("--pid", type=int)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Ask the end, and print its answer. Raises Failure."""
    from muxfs.cli import asking, forwarding  # noqa: PLC0415  (start-up time)

    forwards = [forward.option for forward in forwarding.forwards(args)]
    if args.cancel and not forwards:
        raise Failure("say which forwards to cancel (see muxfs forward --help)", USAGE)
    end = _choose(args)
    name = "cancel" if args.cancel else "forward" if forwards else "status"
    request = {"request": name} if not forwards else {"request": name, "forwards": forwards}
    found = asking.ask(end, request)["forwards"]
    if args.json:
        print(json.dumps({"pid": end.pid, "role": end.role, "forwards": found}))
    else:
        for line in _lines(found, args.cancel):
            print(line)
    return 0


def _lines(found: list[Message], cancelled: bool) -> list[str]:
    if not found:
        return ["no forwards"]
    if cancelled:
        return [f"cancelled {forward['forward']}" for forward in found]
    return [f"{forward['forward']}  on {forward['bound'] or '(not yet)'}" for forward in found]


def _choose(args: argparse.Namespace) -> End:
    """Find the end that is meant. Raises Failure."""
    from muxfs.cli import asking, tunnel  # noqa: PLC0415  (start-up time)
    from muxfs.control import client  # noqa: PLC0415

    path = tunnel.resolve(args.tunnel).path
    roles = (args.side,) if args.side else ("listen", "dial")
    real = asking.real_path(path, *roles)
    ends = [end for role in roles for end in client.find(real, role)]
    meant = [end for end in ends if args.pid in {None, end.pid}]
    for end in ends:
        if len(meant) != 1 or end is not meant[0]:
            end.close()
    if not meant:
        which = f"muxfs {args.side or 'listen or dial'}" + (f" (pid {args.pid})" * bool(args.pid))
        raise Failure(f"no {which} runs on this host for {path}", UNAVAILABLE)
    if len(meant) > 1:
        names = ", ".join(f"muxfs {end.role} (pid {end.pid})" for end in meant)
        raise Failure(f"several run on this host: {names}; choose one by --side or --pid", USAGE)
    return meant[0]
