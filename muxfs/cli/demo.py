"""`muxfs demo`: see it work on one host."""

from __future__ import annotations

import argparse

from muxfs.cli.arguments import size

HELP = """\
usage: muxfs demo [--size SIZE] [--dir DIR] [--key]

Show that it works, on this host alone: runs both ends as two processes over a new
directory, and fetches a web page and a large file through it. Every byte is compared.
Exits with 0 if all was right; nothing is left behind.

  --size SIZE   size of the large file (256M)
  --dir DIR     where to make the directory, a shared filesystem for instance
                (/dev/shm if there is room, else the place for temporary files)
  --key         encrypt all that goes through the directory, with a new key
  -h, --help    this text
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--size", type=size, default=256 << 20, metavar="SIZE")
    parser.add_argument("--dir", metavar="DIR")
    parser.add_argument("--key", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Run it. Raises Failure."""
    from muxfs.cli import demonstration  # noqa: PLC0415  (start-up time)

    return demonstration.run(args.size, args.dir, sealed=args.key)
