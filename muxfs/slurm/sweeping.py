"""Which tunnels are of jobs that are over: who is ended by SIGKILL removes nothing.

Rule: only jobs' own tunnels (slurm-JOBID), and only those of jobs that Slurm calls ended. It
forgets a job soon; a tunnel of a forgotten one goes when nothing has been written there for a
day. Clusters that number alike may share a home: this one's word is not enough, and what it
calls ended is removed only when its mailboxes have been seen not to change for `SILENCE`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from muxfs.slurm import queue
from muxfs.slurm.jobs import job_of

FORGOTTEN: Final = 86400.0
"""Seconds, by the clock of the file server."""
SILENCE: Final = 120.0
"""Seconds between two looks at the mailboxes: many heartbeats."""


def ended(home: str, alive: str) -> list[str]:
    """Find the own tunnels of all jobs that are over. `alive`: one that is just being used.

    Raises NoAnswer, OSError. Blocks.
    """
    paths = {job_of(name): os.path.join(home, name) for name in os.listdir(home)}
    others = {job: path for job, path in paths.items() if job is not None and path != alive}
    if not others:
        return []
    known = {job.number: job for job in queue.jobs_of(os.geteuid())}
    now = _written(alive)
    over: list[str] = []
    for number, path in others.items():
        job = known.get(number)
        if now - _written(path) > FORGOTTEN if job is None else job.ended and not job.may_return:
            over.append(path)
    return over


def _written(path: str) -> float:
    """Return when something was written there last, by the file server's clock."""
    return max(_times(path), default=0.0)


def _times(path: str) -> Iterator[float]:
    for directory, _, names in os.walk(path):
        for name in ("", *names):
            try:
                yield os.stat(os.path.join(directory, name)).st_mtime
            except FileNotFoundError:
                continue
