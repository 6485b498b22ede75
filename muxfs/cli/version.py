"""`muxfs version`."""

from __future__ import annotations

import argparse
import json
import platform

import muxfs

HELP = """\
usage: muxfs version [--json]

Print the version of muxfs, and what it runs on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    facts = {
        "muxfs": muxfs.__version__,
        "protocol": "1.0",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    if args.json:
        print(json.dumps(facts))
    else:
        print("muxfs {muxfs} (protocol {protocol}, Python {python}, {system})".format(**facts))
    return 0
