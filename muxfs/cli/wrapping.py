"""What `muxfs srun`, `sbatch` and `salloc` have in common, as commands."""

from __future__ import annotations

from typing import Final

from muxfs.cli.failures import UNAVAILABLE, USAGE, Failure

HELP: Final = """\
usage: muxfs {name} --tunnel=SPEC [anything that {name} takes]

Run Slurm's {name}, and have ports lead to its job, or from the job to here. SPEC is a
list of [L|R]PORT:[HOST:]PORT with commas between:
{meaning}
{letter} may be left out: {example}

{life}
A port that is taken is replaced by a free one: the terminal says which, or, with
sbatch, muxfs status. Everything but --tunnel goes to {name} unchanged (its own help:
muxfs {name} --help), and so do its output, its signals and its exit code. Whatever
goes wrong with the tunnel is a warning.

muxfs must be at the same place on both hosts (a virtual environment in your home is),
or the job has no tunnel. docs/slurm-admin.md: a plugin for Slurm's own commands.
"""

_OUTWARD: Final = """\
  {letter}8001:8000                this host listens on 8001, the job's first node connects
                           to its own port 8000
  {letter}8001:db:5432             the same, and it connects to port 5432 of the host db"""
_INWARD: Final = """\
  {letter}1900:license:1900        the job's first node listens on 1900, this host connects to
                           port 1900 of the host license"""


def help_of(name: str, life: str) -> str:
    """Return the help of a wrapper; `life` says how long the ports are open."""
    outward, inward = ("L", "R") if name == "srun" else ("R", "L")
    return HELP.format(
        name=name,
        meaning=f"{_OUTWARD.format(letter=outward)}\n{_INWARD.format(letter=inward)}",
        letter=outward,
        example=f"muxfs {name} --tunnel=8001:8000,8889:8888 ...",
        life=life,
    )


def pass_on(name: str, words: list[str]) -> int:
    """Run Slurm's command with the words. Raises Failure."""
    from muxfs.slurm import wrappers  # noqa: PLC0415  (start-up time)
    from muxfs.slurm.places import BadTemplate  # noqa: PLC0415
    from muxfs.slurm.plan import Command, SpecError  # noqa: PLC0415
    from muxfs.slurm.submission import NoCommand  # noqa: PLC0415

    try:
        return wrappers.run(Command(name), words)
    except SpecError as error:
        raise Failure(f"--tunnel: {error}", USAGE) from error
    except BadTemplate as error:
        raise Failure(str(error), USAGE) from error
    except NoCommand as error:
        raise Failure(str(error), UNAVAILABLE) from error
