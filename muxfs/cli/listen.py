"""`muxfs listen`: the side where the TCP clients are."""

from __future__ import annotations

import argparse

from muxfs.cli.arguments import (
    CONSENT_HELP,
    FORWARDS_HELP,
    OUTPUT_HELP,
    SESSION_HELP,
    add_consent_options,
    add_forward_options,
    add_job_option,
    add_output_options,
    add_session_options,
    duration,
)

_FORWARDS = FORWARDS_HELP + CONSENT_HELP.format(
    allow="let it connect there (nowhere but the targets of -R)",
    allow_listen="let it listen there (nowhere)",
)
HELP = f"""\
usage: muxfs listen [options] TUNNEL [FORWARD...]
       muxfs listen [options] --job JOBID [FORWARD...]

Accept connections on ports of this host, and have `muxfs dial` on the other host
connect them to a service there. Ends with Ctrl-C. Either side may start first.

TUNNEL is a name (a directory in ~/.muxfs, or $MUXFS_HOME) or a path with a / in it.
FORWARD says which port to open here, and what the other side connects to:
  8888                     port 8888 here to localhost:8888 there
  8001:8000                port 8001 here to localhost:8000 there
  1900:license:1900        port 1900 here to port 1900 of the host license
  0:8888                   a free port, which is printed
  8888:target:1            port 8888 here to the first TARGET of muxfs dial, whichever
                           port that has; with --job and no FORWARD: 0:target:1
  BIND:PORT:HOST:PORT      as above, on the address BIND; *: on all addresses
  R8001:8000               port 8001 there to port 8000 here (L, R, D, U as below)
Lists are separated by commas, IPv6 addresses stand in brackets: [::1]:8888:[::1]:80
Ports are open to your own processes on this host only; --any-user lets others in,
and other hosts where BIND says so.

{_FORWARDS}\
options:
  --job JOBID             wait until that Slurm job runs, and end when it has ended;
                          TUNNEL is then slurm-JOBID, as for muxfs dial in the job, if
                          none is given, and a free port replaces one that is taken
  --persist TIME          end after this time without connections; with it, no FORWARD
                          is needed: muxfs stdio and muxfs forward use it
{SESSION_HELP.format(connect="hold a client without a session so long, then reset it")}\
{OUTPUT_HELP}
examples:
  muxfs listen job42 8888                     JupyterLab of the other side
  muxfs listen --job 123 8888                 that of a Slurm job; also 123_4 and 123+1
  muxfs listen /scratch/me/job42 8001:8000,8889:8888
  muxfs listen job42 -D 1080                  whatever the other side can reach
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("words", metavar="FORWARD", nargs="*")
    add_job_option(parser)
    parser.add_argument("--persist", type=duration, default=0.0, metavar="TIME")
    add_forward_options(parser)
    add_consent_options(parser)
    add_session_options(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run until the end. Raises Failure."""
    from muxfs.cli import ends  # noqa: PLC0415  (start-up time)

    return ends.run_end("listen", args)
