"""How jobs are named, and the tunnel that belongs to one. Imports next to nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_JOB: Final = re.compile(r"(\d{1,10})(?:_(\d{1,10})|\+(\d{1,10}))?", re.ASCII)
_LABEL: Final = re.compile(r"job (\d{1,10})(?: restart (\d{1,10}))?", re.ASCII)
_TUNNEL: Final = re.compile(r"slurm-([1-9]\d{0,9})", re.ASCII)


class BadJobId(ValueError):
    """What is no job id; `str()` is one sentence for people."""


class JobId(NamedTuple):
    """A job as people write it: `123`, task 4 of an array `123_4`, component 1 `123+1`."""

    number: int
    task: int | None = None
    component: int | None = None

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Parse it. Raises BadJobId."""
        found = _JOB.fullmatch(text.strip())
        if found is None or not int(found[1]):
            raise BadJobId(f"{text!r} is not a job id such as 123, 123_4 or 123+1")
        number, task, component = (None if part is None else int(part) for part in found.groups())
        return cls(number or 0, task, component)

    def __str__(self) -> str:
        task = "" if self.task is None else f"_{self.task}"
        component = "" if self.component is None else f"+{self.component}"
        return f"{self.number}{task}{component}"


class ThisJob(NamedTuple):
    """The job that this process is in."""

    number: int
    """`SLURM_JOB_ID`: each task of an array and each component has its own."""
    restarts: int
    """How often Slurm has started it again; orders the instances of a requeued job."""

    @property
    def label(self) -> str:
        """What the other side is shown, and `replaces` reads."""
        return f"job {self.number}" + (f" restart {self.restarts}" if self.restarts else "")

    def replaces(self, label: str) -> bool:
        """Whether the process with that label is of an earlier instance of this job.

        That one may go on running for long: on a node that Slurm cannot reach.
        """
        found = _LABEL.fullmatch(label)
        return (
            found is not None
            and int(found[1]) == self.number
            and int(found[2] or 0) < self.restarts
        )


def this_job(environ: Mapping[str, str] = os.environ) -> ThisJob | None:
    """Return the job that this process runs in, from the environment."""
    number = environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID") or ""
    if not _JOB.fullmatch(number) or not number.isdecimal() or not int(number):
        return None
    restarts = environ.get("SLURM_RESTART_COUNT", "")
    return ThisJob(int(number), int(restarts) if restarts.isdecimal() else 0)


def tunnel_of(number: int) -> str:
    """Return the name of a job's own tunnel, by its unique id (`JobID` of squeue)."""
    return f"slurm-{number}"


def job_of(tunnel: str) -> int | None:
    """Return the job whose own tunnel has that name; None for any other name."""
    found = _TUNNEL.fullmatch(tunnel)
    return int(found[1]) if found else None
