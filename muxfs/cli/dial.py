"""`muxfs dial`: the side where the service is."""

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
)

_FORWARDS = FORWARDS_HELP + CONSENT_HELP.format(
    allow="let it connect also there, besides each TARGET",
    allow_listen="let it listen there (localhost, ports from 1024 on)",
)
HELP = f"""\
usage: muxfs dial [options] TUNNEL [TARGET...] [-- COMMAND...]
       muxfs dial [options] [TARGET...] [-- COMMAND...]        in a Slurm job

Connect clients of `muxfs listen` on the other host to services here, or to what can
be reached from here. Ends with Ctrl-C, or with COMMAND. Either side may start first.

TUNNEL is a name (a directory in ~/.muxfs, or $MUXFS_HOME) or a path with a / in it.
In a Slurm job it may be left out: it is slurm-JOBID then, as for muxfs listen --job.
TARGET is what this side is willing to connect to; without any: each port of localhost.
  8888             localhost:8888
  license:1900     port 1900 of the host license
  /run/app.sock    that Unix socket
  {{port}}           with COMMAND: a free port of localhost, which replaces {{port}} in
                   COMMAND, too (as {{port2}} that of the second TARGET)
COMMAND gets the signals and passes on its exit code; MUXFS_TUNNEL and the ports,
MUXFS_PORT, MUXFS_PORT2 and so on, are in its environment. muxfs says when it answers
at each TARGET. The other side may call these target:1, target:2 and so on.
Lists are separated by commas, IPv6 addresses stand in brackets: [::1]:80

{_FORWARDS}\
options:
  --job JOBID             as if in that Slurm job
{SESSION_HELP.format(connect="give a service up that does not answer")}\
{OUTPUT_HELP}
With COMMAND, --json goes to stderr: stdout is COMMAND's.

examples:
  muxfs dial 8888 -- jupyter lab --port 8888  last line of a job's script, after exec
  muxfs dial job42 8888                       next to JupyterLab on port 8888
  muxfs dial /scratch/me/job42 8888 license:1900
  muxfs dial job42 --allow '*:*'              whatever muxfs listen -D is asked for
  muxfs dial job42 -R 8001:8000               port 8001 there to port 8000 here
"""


RUNS_A_COMMAND = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("words", metavar="TARGET", nargs="*")
    add_job_option(parser)
    add_forward_options(parser)
    add_consent_options(parser)
    add_session_options(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run until the end. Raises Failure."""
    from muxfs.cli import ends  # noqa: PLC0415  (start-up time)

    return ends.run_end("dial", args)
