"""A job with a service and a tunnel to it, and what its user does on a login host."""

from __future__ import annotations

import json
from typing import Any

import attrs
import trio

from tests.e2e.process import Side

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import ROOT, USER, Host
from .jobs import Job

PORT = 7000
"""Of the service, in the job."""
SERVICE = f"{PYTHON} -m tests.slurm.service"
SCRIPT = f"exec muxfs dial {PORT} -- {SERVICE} {PORT}"
"""The last line of a batch script."""


@attrs.frozen
class Tunnelled:
    """A job whose service is reached from a login host."""

    cluster: Cluster
    commands: Commands
    job: Job
    listen: Side
    login: Host

    async def visit(self, user: str = USER) -> dict[str, Any]:
        """Visit the service through the tunnel; return where it says that it is."""
        port = str(await self.listen.port())
        visit = (str(PYTHON), "-m", "tests.slurm.service", "visit", port)
        return dict(json.loads((await self.login.run(*visit, user=user)).output))

    async def is_at(self, host: Host, restarts: int) -> None:
        """Visit the service, and check where it is."""
        expected = {"host": host.name, "job": self.job.number, "restarts": restarts}
        assert await self.visit() == expected

    async def until_it_is_at(self, host: Host) -> None:
        """Wait until the tunnel leads to the service on that host."""
        await until_it_says(self.login, self.listen, f'"{host.name}"')

    async def ends(self) -> int:
        """Wait until the listening side has ended by itself, with nobody's help."""
        await self.listen.event("closed", within=jobs.PATIENCE)
        return await self.listen.process.wait()


async def listen(commands: Commands, host: Host, job: Job, *words: str) -> Side:
    """Start `muxfs listen --job`, as a user would, on any login host."""
    return await commands.muxfs(host, "listen", "--job", job.number, *(words or (f"0:{PORT}",)))


async def until_it_says(login: Host, side: Side, words: str) -> str:
    """Visit the service behind a side's first port until it greets with that; return it all."""
    port = str(await side.port())
    visit = ("timeout", "20", str(PYTHON), "-m", "tests.slurm.service", "visit", port)
    said = ""
    with trio.move_on_after(jobs.PATIENCE):
        while words not in (said := (await login.run(*visit, check=False)).output):  # noqa: ASYNC110
            await trio.sleep(0.5)
        return said
    raise AssertionError(f"{words} was not seen behind port {port} of {login.name}, but {said!r}")


async def open_tunnel(
    cluster: Cluster, commands: Commands, *options: str, script: str = SCRIPT
) -> Tunnelled:
    """Submit a job, and wait until its service is reached from login1."""
    job = await jobs.submit(cluster, script, *options)
    side = await listen(commands, cluster.login1, job)
    await side.event("established", within=jobs.PATIENCE)
    tunnelled = Tunnelled(cluster, commands, job, side, cluster.login1)
    host = await job.runs()
    await tunnelled.until_it_is_at(host)
    await tunnelled.is_at(host, 0)
    return tunnelled


async def to_other_node(cluster: Cluster, host: Host) -> Host:
    """See to it that jobs run on the other node from now on; return that."""
    (other,) = (node for node in cluster.computes if node is not host)
    words = ("update", f"NodeName={host.name}", "State=DRAIN", "Reason=test")
    await cluster.controller.run("scontrol", *words, user=ROOT)
    return other
