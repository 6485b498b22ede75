"""Many jobs at once, each with a tunnel."""

from __future__ import annotations

import json

import trio

from tests.e2e.process import Side

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import Host
from .jobs import Job

COUNT = 20
FIRST = 7000
# an array's tasks share nodes, and so must not share ports
SCRIPT = f"""
port=$(({FIRST} + SLURM_ARRAY_TASK_ID))
{PYTHON} -m tests.slurm.service $port &
exec muxfs dial $port
"""


async def test_twenty_jobs_with_tunnels(cluster: Cluster, commands: Commands) -> None:
    """An array; each task's port on a login host leads to that task."""
    array = await jobs.submit(cluster, SCRIPT, f"--array=1-{COUNT}")
    found: dict[int, str] = {}

    async def follow(task: int, login: Host) -> None:
        words = ("listen", "--job", f"{array.number}_{task}", f"{FIRST}:{FIRST + task}")
        side = await commands.muxfs(login, *words)
        await side.event("established", within=jobs.PATIENCE)
        found[task] = await visit(login, side)

    async def visit(login: Host, side: Side) -> str:
        port = str(await side.port())
        words = (str(PYTHON), "-m", "tests.slurm.service", "visit", port)
        greeting = json.loads((await login.run(*words)).output)
        return str(greeting["job"])

    async with trio.open_nursery() as nursery:
        for task in range(1, COUNT + 1):
            login = (cluster.login1, cluster.login2)[task % 2]
            nursery.start_soon(follow, task, login)

    said = await cluster.login1.run("squeue", "--noheader", "--array", "--format=%K %A")
    expected = dict(map(str.split, said.output.splitlines()))
    assert {str(task): job for task, job in found.items()} == expected
    assert len(expected) == COUNT

    await Job(cluster, array.number).cancel()

    for side in commands.sides:
        await side.event("closed", within=jobs.PATIENCE)
    await cluster.no_leftovers()
