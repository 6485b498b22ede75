"""`muxfs explain`: decode a mailbox file for people."""

from __future__ import annotations

import argparse

HELP = """\
usage: muxfs explain [--batches N] [--key-file FILE] FILE

Decode a mailbox file (dial.mbx or listen.mbx, see protocol.md): who wrote it, its
statuses from the oldest to the newest, and the batches in its ring with their frames.
Any file may be given, also a broken one. The bytes that streams carry are not shown.

Of a sealed file, the key shows who wrote it and its statuses; what the batches hold
only the two sides could ever read.

  --batches N      show the last N batches of the current epoch; 0: all (12)
  --key-file FILE  the key of sealed sessions (or: MUXFS_KEY_FILE)
  -h, --help       this text

example:
  muxfs explain ~/.muxfs/job42/sessions/0/listen.mbx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--batches", type=int, default=12, metavar="N")
    parser.add_argument("--key-file", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Print what is in the file."""
    from muxfs.cli import anatomy, patience, seals  # noqa: PLC0415  (start-up time)

    key = seals.key(args.key_file, limit=patience.STILL)
    return anatomy.explain(args.file, batches=max(0, args.batches), key=key)
