"""`muxfs slurm`: the SPANK plugin, and what it and the wrappers start on both hosts."""

from __future__ import annotations

import argparse

from muxfs.cli.failures import USAGE, Failure

HELP = """\
usage: muxfs slurm ACTION ..., one of:
       muxfs slurm build-plugin -o FILE [--cc COMMAND] [--include DIR]
       muxfs slurm follow COMMAND --tunnel=SPEC [options]
       muxfs slurm serve COMMAND --tunnel=SPEC [options]

build-plugin makes the SPANK plugin, for srun --tunnel, sbatch --tunnel and salloc
--tunnel, with this site's slurm/spank.h. See docs/slurm-admin.md.

The others are started by the plugin and by muxfs srun, sbatch and salloc, not by
people: follow on the submission host (it becomes muxfs listen when the job runs), serve
in the job (it becomes muxfs dial). COMMAND is srun, sbatch or salloc.

options of build-plugin:
  -o FILE                 the plugin; /usr/lib64/slurm/muxfs.so, for instance
  --cc COMMAND            the C compiler (cc, or gcc)
  --include DIR           where slurm/spank.h is, if not where the compiler looks

options of follow and serve:
  --tunnel SPEC           the list that the user gave
  --dir TEMPLATE          the tunnel directory, with %u user, %j job, %h home in it
                          (~/.muxfs/slurm-%j)
  --token TEXT            name of this submission, where the id of the job is not known
  --step N                the step of the job that has a tunnel beside that of the job
  --args TEXT             more options for muxfs listen and muxfs dial
  --helpertask-args TEXT  more options, and where output goes: 2>FILE, >FILE, 2>&1
  --job JOBID             follow: the job
  --number N              follow: its SLURM_JOB_ID, where JOBID is a task such as 123_4
  --submitter PID         follow: the process of srun, sbatch or salloc
  --session SID           follow: its session, as Slurm notes it
  --start-serve           follow: start serve in the job, as a step of its own
  -h, --help              this text
"""

ACTIONS = ("build-plugin", "follow", "serve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION")
    parser.add_argument("command_name", nargs="?", metavar="COMMAND")
    add = parser.add_argument
    add("-o", metavar="FILE", dest="output")
    add("--cc", metavar="COMMAND")
    add("--include", metavar="DIR")
    add("--tunnel", metavar="SPEC")
    add("--dir", metavar="TEMPLATE")
    add("--token", metavar="TEXT", default="")
    add("--step", type=int, metavar="N")
    add("--args", metavar="TEXT", default="")
    add("--helpertask-args", metavar="TEXT", default="")
    add("--job", metavar="JOBID")
    add("--number", type=int, metavar="N")
    add("--submitter", type=int, metavar="PID")
    add("--session", type=int, metavar="SID")
    add("--start-serve", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Do it. Raises Failure."""
    if args.action == "build-plugin":
        from muxfs.cli import plugin  # noqa: PLC0415  (start-up time)

        if args.command_name is not None or not args.output:
            raise Failure("say where the plugin is to be: muxfs slurm build-plugin -o FILE", USAGE)
        return plugin.build(args.output, args.cc, args.include)
    if args.command_name is None or not args.tunnel:
        raise Failure(f"muxfs slurm {args.action} needs COMMAND and --tunnel=SPEC", USAGE)
    from muxfs.cli import helpers  # noqa: PLC0415  (start-up time)

    return helpers.follow(args) if args.action == "follow" else helpers.serve(args)
