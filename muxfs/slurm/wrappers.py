"""`muxfs srun`, `sbatch` and `salloc`: Slurm's own commands, and a tunnel for their job.

Rule: whatever is not --tunnel reaches Slurm as it was given. Without --tunnel nothing is
done at all. What goes wrong with the tunnel is a warning; the job is submitted all the same.

    srun      --prolog: srun runs a program on this host when its step is ready; that starts
              `muxfs slurm follow`, which starts `muxfs slurm serve` in the job, as a step
    salloc    `follow` is started before it, and learns the job from salloc's first child
    sbatch    see `batch`
"""

from __future__ import annotations

import os
from typing import Final, NoReturn

from muxfs.slurm import batch, options, own
from muxfs.slurm.options import Line
from muxfs.slurm.plan import Command, SpecError
from muxfs.slurm.submission import Submission, become, no_tunnel, start_helper

HOOK: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "srun-prolog")
_ABOUT_ITSELF: Final = ("help", "h", "usage", "version", "V")


def run(command: Command, words: list[str]) -> int:
    """Run Slurm's command; return its exit code, or do not return at all.

    Raises SpecError, BadTemplate, NoCommand.
    """
    line = options.parse(command.value, words)
    specs = line.values(options.TUNNEL)
    if line.has(*_ABOUT_ITSELF) or (not specs and command is not Command.SBATCH):
        become(command, words)
    if specs:
        _refuse_others(command, line)
    if command is Command.SBATCH:
        return batch.run(line, ",".join(specs))
    submission = Submission.of(command, ",".join(specs))
    return _srun(submission, line) if command is Command.SRUN else _salloc(submission, line)


def _refuse_others(command: Command, line: Line) -> None:
    """Refuse jobs that the helpers would not find, before anything is submitted.

    Raises SpecError.
    """
    if line.has("clusters", "cluster", "M"):
        raise SpecError(
            "this host's helper asks the default cluster only: it would not find a job of "
            "--clusters; see docs/slurm-admin.md"
        )
    if line.has("uid"):
        raise SpecError("a job of --uid is another user's: see docs/slurm-admin.md")
    # getopt stops at the colon; srun looks for further ones behind each program
    colon = ":" in (line.rest if command is Command.SRUN else line.rest[:1])
    if colon or line.has("het-group"):
        raise SpecError(
            "it is not for jobs whose parts are divided by a colon, nor for --het-group; a script "
            "with #SBATCH hetjob can have it: see docs/slurm-admin.md"
        )


def _srun(submission: Submission, line: Line) -> NoReturn:
    words = line.without(options.TUNNEL)
    if os.access(HOOK, os.X_OK):
        prolog = line.value("prolog") or os.environ.get("SLURM_PROLOG", "")
        start = own.shell(*submission.helper("follow", "--start-serve"))
        # the first step of a job of its own has the job's tunnel
        inside = "SLURM_JOB_ID" in os.environ or line.has("jobid")
        os.environ["SLURM_MUXFS_START"] = start + (' --step="$SLURM_STEP_ID"' if inside else "")
        os.environ["SLURM_MUXFS_PROLOG"] = "" if prolog.lower() == "none" else prolog
        words = [f"--prolog={HOOK}", *line.without(options.TUNNEL, "prolog")]
    else:
        no_tunnel(f"{HOOK} is not executable")
    become(Command.SRUN, [*words, *line.rest])


def _salloc(submission: Submission, line: Line) -> NoReturn:
    if line.has("no-shell"):
        no_tunnel("it would end with salloc --no-shell; run muxfs listen --job JOBID")
    else:
        start_helper(submission.helper("follow", "--start-serve", f"--submitter={os.getpid()}"))
    become(Command.SALLOC, [*line.without(options.TUNNEL), *line.rest])
