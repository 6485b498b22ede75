"""The main job: JupyterLab in a batch job, used from a login host."""

from __future__ import annotations

import pytest

from . import environment, jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .tunnels import listen

TOKEN = "8f2c1d"  # of a server that lives for one test, on loopback
LAB = environment.jupyter()
SCRIPT = f"""#!/bin/bash
exec muxfs dial '{{port}}' -- {LAB} --no-browser --port '{{port}}' \\
  --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN} --LabApp.news_url=None
"""


@pytest.mark.skipif(LAB is None, reason=f"no JupyterLab ({environment.JUPYTER} names one)")
async def test_a_cell_runs_in_the_job(cluster: Cluster, commands: Commands) -> None:
    """Its kernel's websocket goes through the tunnel; the job ends, and nothing is left."""
    job = await jobs.submit(cluster, SCRIPT)
    side = await listen(commands, cluster.login1, job, "0:target:1")
    await side.event("established", within=jobs.PATIENCE)

    page = f"http://localhost:{await side.port()}/login"
    retries = ("--retry", "60", "--retry-delay", "1", "--retry-all-errors")
    await cluster.login1.run("curl", "--silent", "--output", "/dev/null", *retries, page)

    notebook = (str(PYTHON), "-m", "tests.slurm.notebook", str(await side.port()), TOKEN)
    said = await cluster.login1.run(*notebook)

    assert said.output.split() == ["42", (await job.runs()).name]
    await job.cancel()
    await side.event("closed", within=jobs.PATIENCE)
    await cluster.no_leftovers()
