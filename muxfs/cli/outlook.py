"""What `muxfs status` finds out besides mailboxes: jobs, ports of this host, ages. Trio-free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import attrs

from muxfs.control import client, protocol
from muxfs.core.wire import Role
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


@attrs.frozen
class Here:
    """An end of a tunnel that runs on this host, as it answers itself."""

    role: str
    pid: int
    peers: list[str]
    """Hosts of the ends that it is connected with."""
    ports: list[str]


def ends_here(real_path: str, roles: Iterable[Role]) -> list[Here]:
    """Ask the ends that run on this host for a tunnel. Waits for them, never for its directory."""
    return [_answer(end) for role in roles for end in client.find(real_path, role.name.lower())]


def _answer(end: client.End) -> Here:
    answer: protocol.Message = {}
    with contextlib.suppress(client.Gone, protocol.Malformed):
        end.send({"request": "status"})
        answer = end.receive()
    end.close()
    forwards, sessions = (_objects(answer.get(key)) for key in ("forwards", "sessions"))
    peers = [peer for session in sessions for peer in _objects([session.get("peer")])]
    ports = [printable(f"{each.get('bound')} by {each.get('forward')}") for each in forwards]
    hosts = [printable(str(peer.get("host"))) for peer in peers]
    return Here(printable(end.role), end.pid, hosts, ports)


def _objects(value: object) -> list[protocol.Message]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def age(path: str) -> float | None:
    """Return for how many seconds nothing has been written to a file, None without one.

    By the clocks of this host and of the file server: for people only.
    """
    try:
        written = os.lstat(path).st_mtime
    except OSError:
        return None
    return max(0.0, datetime.now(UTC).timestamp() - written)
