"""`muxfs bench`: how fast a tunnel is on the user's own filesystem."""

from __future__ import annotations

import argparse

from muxfs.cli.arguments import add_measuring_options, poll

HELP = """\
usage: muxfs bench [options] TUNNEL

Measure how fast a tunnel in the directory of TUNNEL is: round trips of one byte, alone
and beside a bulk stream, streams that are opened for one byte, and bulk in both
directions. It need not exist yet, and ends that run there are not disturbed (though all
share the file server).

With --peer, run the same command on both hosts, in any order: they find each other in
the directory, and both print the result. Without it both ends run on this host, so that
nothing is known of what another host's caches add.

Takes half a minute and leaves nothing behind. Whether a filesystem serves at all, and
why it is as slow as it is, muxfs doctor tells.

TUNNEL is a name (a directory in ~/.muxfs, or $MUXFS_HOME) or a path with a / in it.

options:
  --peer           measure together with the same command on the other host
  --wait TIME      how long to wait for that one (10m)
  --time TIME      how long to measure (20s)
  --ring SIZE      as for listen and dial
  --poll MIN:MAX   as for listen and dial
  --access HOW     as for listen and dial
  --key-file FILE  encrypt all, as listen and dial would (or: MUXFS_KEY_FILE)
  --insecure-dir   use the directory though others could write to it
  --json           one JSON object on stdout; docs/speed.md describes it
  -h, --help       this text

exit codes: 69 the other one did not come, or vanished; the others as for all commands

examples:
  muxfs bench job42
  muxfs bench /scratch/me/job42 --peer      here, and the same on the other host
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    add_measuring_options(parser)
    parser.add_argument("--poll", type=poll, metavar="MIN:MAX")
    parser.add_argument("--access", metavar="HOW")
    parser.add_argument("--key-file", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Measure. Raises Failure."""
    from muxfs.cli import measuring  # noqa: PLC0415  (start-up time)

    return measuring.run(args)
