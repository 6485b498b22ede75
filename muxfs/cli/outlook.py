"""What `muxfs status` finds out besides mailboxes: jobs, ports of this host, ages. Trio-free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from muxfs.control import client, protocol
from muxfs.errors import printable
from muxfs.slurm import queue
from muxfs.slurm.jobs import job_of
from muxfs.slurm.queue import Job

ANSWER_TIME: Final = 5.0
"""Seconds for Slurm: somebody waits, and the rest can be told without it."""


def jobs_of_tunnels(names: Iterable[str]) -> tuple[dict[str, Job], str]:
    """Return what Slurm says of the jobs whose own tunnels have these names; blocks.

    And why it says nothing, if it should have. It is asked once, and only if there are such.
    """
    numbers = {name: number for name in names if (number := job_of(name)) is not None}
    if not numbers:
        return {}, ""
    try:
        known = {job.number: job for job in queue.jobs_of(os.geteuid(), ANSWER_TIME)}
    except queue.NoSlurm:
        return {}, ""
    except queue.NoAnswer as error:
        return {}, str(error)
    gone = (Job(number, str(number), "GONE") for number in numbers.values() if number not in known)
    known |= {job.number: job for job in gone}
    return {name: known[number] for name, number in numbers.items()}, ""


def ports_here(tunnel: str) -> list[str]:
    """Return the forwards of the listening ends of a tunnel that run on this host; blocks."""
    found: list[str] = []
    for end in client.find(os.path.realpath(tunnel), "listen"):
        with contextlib.suppress(client.Gone, protocol.Malformed):
            end.send({"request": "status"})
            forwards = end.receive().get("forwards")
            if isinstance(forwards, list):
                found += [_described(each) for each in forwards if isinstance(each, dict)]
        end.close()
    return found


def _described(forward: dict[str, object]) -> str:
    return printable(f"{forward.get('bound')} by {forward.get('forward')}")


def age(path: str) -> float | None:
    """Return for how many seconds nothing has been written to a file, None without one.

    By the clocks of this host and of the file server: for people only.
    """
    try:
        written = os.lstat(path).st_mtime
    except OSError:
        return None
    return max(0.0, datetime.now(UTC).timestamp() - written)
