"""Jobs of the cluster's users, as Slurm tells of them."""

from __future__ import annotations

import re

import attrs
import trio

from .cluster import Cluster
from .host import ROOT, USER, Host

PATIENCE = 120.0
"""Seconds for something that Slurm will do."""
RUNNING = "RUNNING"
PENDING = "PENDING"
CANCELLED = "CANCELLED"
COMPLETED = "COMPLETED"
TIMEOUT = "TIMEOUT"
ENDED = (CANCELLED, COMPLETED, "FAILED", TIMEOUT, "NODE_FAIL")

_SUBMIT = 'script=$1; shift; exec sbatch --parsable "$@" <<< "$script"'
_FIELD = re.compile(r"(\w+)=(\S*)")


@attrs.frozen
class Job:
    """A batch job."""

    cluster: Cluster
    number: str

    async def fields(self) -> dict[str, str]:
        """Return what `scontrol show job` says: JobState, Reason, BatchHost, Restarts, ..."""
        show = ("scontrol", "--oneliner", "show", "job", self.number)
        for _ in range(20):  # a controller that has just been started does not answer at once
            said = await self.cluster.login1.run(*show, user=ROOT, check=False)
            if not said.status:
                return dict(_FIELD.findall(said.output))
            await trio.sleep(0.5)
        raise AssertionError(f"job {self.number}: {said.errors}")

    async def until(self, *states: str, restarts: int = 0, within: float = PATIENCE) -> Host | None:
        """Wait until it is in one of the states, restarted so often; return where it runs."""
        fields: dict[str, str] = {}
        with trio.move_on_after(within):
            while True:
                fields = await self.fields()
                if fields["JobState"] in states and int(fields["Restarts"]) >= restarts:
                    return self.cluster.hosts.get(fields.get("BatchHost", ""))
                await trio.sleep(0.2)
        raise AssertionError(f"job {self.number} is not {' or '.join(states)}: {fields}")

    async def runs(self, restarts: int = 0, within: float = PATIENCE) -> Host:
        """Wait until it runs; return the host of its script."""
        host = await self.until(RUNNING, restarts=restarts, within=within)
        assert host is not None
        return host

    async def cancel(self) -> None:
        """Cancel it, as scancel does."""
        await self.cluster.login1.run("scancel", self.number, user=ROOT)


async def submit(
    cluster: Cluster, script: str, *options: str, host: Host | None = None, user: str = USER
) -> Job:
    """Submit a batch script, from login1 and the user's home unless told otherwise."""
    where = host or cluster.login1
    if not script.startswith("#!"):
        script = f"#!/bin/bash\n{script}"
    said = await where.run("bash", "-c", _SUBMIT, "bash", script, *options, user=user)
    return Job(cluster, said.output.strip().partition(";")[0])
