"""`muxfs keygen`: make the key that both sides of sealed sessions have."""

from __future__ import annotations

import argparse
import shlex

HELP = """\
usage: muxfs keygen [--comment TEXT] FILE

Make a key file, for --key-file of both sides: with the same key on both hosts, all that
goes through the tunnel's directory is encrypted, and nothing that others put there is
believed. The file is readable by you alone, and never overwritten.

Keep it where those who are not to read the traffic cannot read it: not in the tunnel's
directory, and not in a home whose file server they administrate.

  --comment TEXT   what the key is for (this host and today's date)
  -h, --help       this text

example:
  muxfs keygen ~/.muxfs-key
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--comment", metavar="TEXT")


def run(args: argparse.Namespace) -> int:
    """Make it, and say what to do with it. Raises Failure."""
    import socket  # noqa: PLC0415  (start-up time)
    from datetime import date  # noqa: PLC0415

    from muxfs.cli.failures import Failure  # noqa: PLC0415
    from muxfs.cli.patience import Answers  # noqa: PLC0415
    from muxfs.errors import UnusableKey, printable  # noqa: PLC0415
    from muxfs.sealing.files import create_key  # noqa: PLC0415

    comment = args.comment
    if comment is None:
        comment = f"{socket.gethostname()} {date.today().isoformat()}"
    try:
        key = Answers().of(args.file, lambda: create_key(args.file, comment))
    except UnusableKey as error:
        raise Failure(str(error), error.exit_code) from error
    name = printable(args.file)
    print(f"made {name} (key {key.key_id})")
    print(f"copy it to the other host, if that has another disk: scp -p {shlex.quote(name)} HOST:")
    print(f"then give both sides: --key-file {shlex.quote(name)} (or set MUXFS_KEY_FILE)")
    return 0
