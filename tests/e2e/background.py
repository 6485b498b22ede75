"""Ends that run in the background, which no test is the parent of."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import trio

from muxfs.control import client

PATIENCE = 60.0


def pids(tunnel: Path, role: str = "listen") -> list[int]:
    """Return the processes that serve a control socket for the tunnel."""
    found = []
    for end in client.find(os.path.realpath(tunnel), role):
        found.append(end.pid)
        end.close()
    return found


async def wait_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def end_all(tunnel: Path) -> None:
    """End those of the tunnel that run."""
    while found := pids(tunnel):
        for pid in found:
            # in good order: the other side of one that is killed waits for its acks when it ends
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            await wait_gone(pid)
