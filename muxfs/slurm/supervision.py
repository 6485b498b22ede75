"""Noticing from within that a job's step is over.

Most sites end all processes of a job with it. Those that track processes by their parents
leave what was detached from them alive for ever. Each step of a job on a node has a
supervisor, slurmstepd, which ends with it: it is an ancestor of the step's processes. What
was detached from them is told its number by who started it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import trio

from muxfs.slurm import own

SUPERVISOR: Final = "slurmstepd"
_MOST_ANCESTORS: Final = 1000


def supervisor() -> int | None:
    """Return a descriptor (pidfd_open(2)) of the own step's supervisor.

    None if there is none: outside of a step, in a container with processes of its own, or
    when a process between it and this one has ended already, and nobody has told.
    """
    for pid in _candidates():
        if _name(pid) != SUPERVISOR:
            continue
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        # the number may have been another process's when it was opened
        if _name(pid) == SUPERVISOR and pid in _candidates():
            return descriptor
        os.close(descriptor)
        return None
    return None


async def wait_ended(descriptor: int) -> None:
    """Wait until the process of the descriptor has ended; closes it."""
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _candidates() -> Iterator[int]:
    yield from _ancestors()
    told = os.environ.get(own.SUPERVISOR, "")
    if told.isascii() and told.isdecimal():
        yield int(told)


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if pid <= 1:
            return
        yield pid
        try:
            pid = int(_stat(pid).rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _name(pid: int) -> str:
    try:
        return _stat(pid).partition("(")[2].rpartition(")")[0]
    except OSError:
        return ""


def _stat(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read()
