"""Slurm's commands, played back: what squeue, sacct and scontrol of Slurm 22.05.8 printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs

WIDTHS = (16, 64, 16, 24, 10, 16, 256, 96)
INVALID = "slurm_load_jobs error: Invalid job id specified"
UNREACHABLE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
NO_ACCOUNTING = "Slurm accounting storage is disabled"

_PROGRAM = """\
#!{python}
import json, os, sys
place = {place!r}
name = os.path.basename(sys.argv[0])
with open(os.path.join(place, "asked"), "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
with open(os.path.join(place, name + ".json")) as file:
    answer = json.load(file)
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


def row(*values: str) -> str:
    """Return a line of squeue with these fields."""
    return "".join(value.ljust(width) for value, width in zip(values, WIDTHS, strict=True)) + "\n"


def job(
    number: int = 7,
    state: str = "RUNNING",
    *,
    name: str = "",
    uid: int = 2001,
    restarts: int = 0,
    status: int = 0,
    nodes: str = "c1",
    reason: str = "None",
) -> str:
    """Return squeue's line of a job."""
    name = name or str(number)
    return row(str(number), name, str(uid), state, str(restarts), str(status), nodes, reason)


@attrs.frozen
class Slurm:
    """A directory for PATH with commands that say what a test wants."""

    place: Path

    def make(self) -> None:
        """Make the commands."""
        for name in ("squeue", "sacct"):
            program = self.place / name
            program.write_text(_PROGRAM.format(python=sys.executable, place=str(self.place)))
            program.chmod(0o755)
        self.says("sacct", err=NO_ACCOUNTING + "\n", code=1)
        self.says("squeue", err=INVALID + "\n", code=1)

    def says(self, name: str, out: str = "", *, err: str = "", code: int = 0) -> None:
        """Have a command print that from now on."""
        answer = self.place / f"{name}.new"
        answer.write_text(json.dumps({"out": out, "err": err, "code": code}))
        answer.replace(self.place / f"{name}.json")

    @property
    def asked(self) -> list[list[str]]:
        """The command lines so far."""
        path = self.place / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
