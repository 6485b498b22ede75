"""The `muxfs` command.

Each command is a module of its own with `HELP`, `add_arguments(parser)` and
`run(args)`, imported when it is used: on a network filesystem each module of an
import costs round trips, and `muxfs --help` needs none of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    *("listen", "dial", "forward", "stdio", "local"),
    *("srun", "sbatch", "salloc", "slurm"),
    *("demo", "status", "doctor", "bench", "explain", "keygen", "version"),
)

HELP = """\
muxfs: TCP connections through a directory that two hosts share.

For a web IDE or any other service on a compute node, where ssh and TCP are
blocked but both hosts mount the same home or scratch directory.

  on the login node:     muxfs listen job42 8888
  on the compute node:   muxfs dial job42 8888
  then open:             http://localhost:8888

Commands:
  listen TUNNEL FORWARD...   where the clients are: accept connections on local ports
  dial TUNNEL [TARGET...]    where the service is: connect to it
  forward TUNNEL [FORWARD]   forwards of an end that runs: add, cancel, list
  stdio TUNNEL TARGET        standard input and output joined to a connection over there
  local PORT -- COMMAND      on your own computer: a port whose connections run a command
  srun --tunnel=8001:8000 ...    Slurm's commands, and ports that lead to the job, or
  sbatch --tunnel=8001:8000 ...  from the job to here; muxfs help srun
  salloc --tunnel=8001:8000 ...
  slurm build-plugin -o FILE     a plugin that adds --tunnel to Slurm's own commands
  demo                       see it work, on this host, in ten seconds
  status [TUNNEL]            both ends of a tunnel, or of all of them
  doctor TUNNEL [--peer]     whether muxfs can work there, and what two hosts see
  bench TUNNEL [--peer]      how fast a tunnel is there
  explain FILE               decode a mailbox file
  keygen FILE                make a key, to have all that goes through encrypted
  version                    version and platform
  help [COMMAND]             this text, or a command's

TUNNEL is a name, for a directory in ~/.muxfs (or $MUXFS_HOME), or a path with a /.
Start both ends in any order, and again at any time: they find each other.

Exit codes:
    0  ended as asked                  73  cannot create, or disk or quota full
    1  the demo or the doctor: no      74  input/output error
    2  wrong usage                     75  another one runs this side, or took it over
   65  not a mailbox, or not a key     76  the other side speaks another protocol
   66  no such directory or file       77  no permission, or the directory is unsafe
   69  port in use, or not available   130, 143  ended by Ctrl-C or SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; without `argv`, that of the process, which is left at the end."""
    from muxfs.cli.failures import leave  # noqa: PLC0415  (start-up time)

    if argv is None:
        leave(_guarded(sys.argv[1:]))
    return _guarded(list(argv))


def _guarded(argv: list[str]) -> int:
    from muxfs.cli.failures import Failure, exit_code_of  # noqa: PLC0415  (start-up time)

    try:
        return _flushed(_dispatch(argv))
    except Failure as failure:
        print(f"muxfs: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # such as `muxfs explain FILE | head`: nobody reads any more
    except OSError as error:  # commands explain all others
        what = "write the output" if error.filename is None else f"use {error.filename}"
        print(f"muxfs: cannot {what}: {error.strerror or error}", file=sys.stderr)
        return exit_code_of(error)
    except SystemExit as end:  # argparse after --help
        return int(end.code or 0)


def _flushed(code: int) -> int:
    if sys.stdout is not None:  # closed before we started
        sys.stdout.flush()
    return code


def _dispatch(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    asked_for_help = name == "help" and len(argv) > 1
    if asked_for_help:
        name, argv = argv[1], [argv[1], "--help"]
    if name in {"-h", "--help", "help"}:
        sys.stdout.write(HELP)
        return 0
    if name in {"-V", "--version"}:
        name, argv = "version", ["version", *argv[1:]]
    from muxfs.cli.failures import USAGE, Failure  # noqa: PLC0415  (start-up time)

    if name not in COMMANDS:
        raise Failure(f"{name!r} is not a command: {', '.join(COMMANDS)} (see muxfs --help)", USAGE)
    from muxfs.cli.arguments import Parser  # noqa: PLC0415  (start-up time)

    command = importlib.import_module(f"muxfs.cli.{name}")
    if hasattr(command, "pass_on") and not asked_for_help:
        return int(command.pass_on(argv[1:]))
    parser = Parser(name, command.HELP)
    command.add_arguments(parser)
    words, rest = argv[1:], []
    if getattr(command, "RUNS_A_COMMAND", False) and "--" in words:
        at = words.index("--")  # argparse would drop any later one, too
        words, rest = words[:at], words[at + 1 :]
    args = parser.parse_intermixed_args(words)
    args.command = rest
    return int(command.run(args))
