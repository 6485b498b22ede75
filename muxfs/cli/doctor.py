"""`muxfs doctor`: whether muxfs can work there, and what the other host sees."""

from __future__ import annotations

import argparse

from muxfs.cli.arguments import add_measuring_options

HELP = """\
usage: muxfs doctor [options] TUNNEL

Look whether muxfs can work in the directory of TUNNEL: filesystem, mount options,
rights, space, how long writes and reads take in each way there is, locks. It need not
exist yet.

With --peer, run the same command on both hosts, in any order: they find each other in
the directory, and measure for each way to read and write (--access) how soon one host
sees what the other one has overwritten, and whether it always does. The last line says
what to use. Takes less than 30 seconds and leaves nothing behind.

TUNNEL is a name (a directory in ~/.muxfs, or $MUXFS_HOME) or a path with a / in it.

options:
  --peer           measure together with a doctor on the other host
  --wait TIME      how long to wait for that one (10m)
  --time TIME      how long to measure with it, more or less (20s; ends after 25);
                   a longer time finds what seldom fails
  --ring SIZE      size of a mailbox file, as for listen and dial (16M)
  --insecure-dir   use the directory though others could write to it
  --json           one JSON object on stdout; docs/doctor.md describes it
  -h, --help       this text

exit codes: 0 muxfs can work there; 1 it cannot; 69 the other doctor did not come, or
vanished; the others as for all commands

examples:
  muxfs doctor job42
  muxfs doctor /scratch/me/job42 --peer      here, and the same on the other host
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    add_measuring_options(parser)


def run(args: argparse.Namespace) -> int:
    """Examine. Raises Failure."""
    from muxfs.cli import consultation  # noqa: PLC0415  (start-up time)

    return consultation.run(args)
