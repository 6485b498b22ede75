"""Many jobs at once, each with a tunnel."""

from __future__ import annotations

import json

import trio

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import Host
from .jobs import Job
from .tunnels import until_it_says

COUNT = 20
# an array's tasks share nodes, and so each takes a port that is free there
SCRIPT = f"exec muxfs dial '{{port}}' -- {PYTHON} -m tests.slurm.service '{{port}}'"


async def test_twenty_jobs_with_tunnels(cluster: Cluster, commands: Commands) -> None:
    """An array; each task's port on a login host leads to that task. All ask for the same one."""
    array = await jobs.submit(cluster, SCRIPT, f"--array=1-{COUNT}")
    found: dict[int, str] = {}

    async def follow(task: int, login: Host) -> None:
        words = ("listen", "--job", f"{array.number}_{task}", "7000:target:1")
        side = await commands.muxfs(login, *words)
        await side.event("established", within=jobs.PATIENCE)
        greeting = json.loads(await until_it_says(login, side, "job"))
        found[task] = greeting["job"]

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
