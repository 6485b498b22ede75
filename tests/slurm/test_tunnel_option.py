"""--tunnel, by the wrappers and by the plugin: the examples of slurm-spank-stunnel, and more."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from muxfs.slurm import plugin

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PLACE, PYTHON
from .host import OTHER, ROOT, Host
from .jobs import Job
from .tunnels import to_other_node

SERVICE = f"{PYTHON} -m tests.slurm.service"
MUXFS = PLACE / "bin" / "muxfs"
WRAPPERS, PLUGIN = "wrappers", "plugin"
ONE = "/etc/slurm/muxfs.so"


@pytest.fixture(params=[WRAPPERS, PLUGIN])
async def prefix(
    request: pytest.FixtureRequest, cluster: Cluster
) -> AsyncIterator[tuple[str, ...]]:
    """Give the words before srun, sbatch or salloc."""
    if request.param == WRAPPERS:
        yield ("muxfs",)
        return
    await trio.to_thread.run_sync(plugin.build, str(cluster.etc / "muxfs.so"))
    await cluster.plugins(f"optional {ONE} muxfs={MUXFS}\n")
    yield ()
    with trio.CancelScope(shield=True):
        await cluster.tidy()  # a node that is drained or off reads no plugstack.conf
        await cluster.plugins("")


async def visit(host: Host, port: int) -> dict[str, Any]:
    """Visit a service as soon as it is reached, and return its greeting."""
    words = ("timeout", "30", str(PYTHON), "-m", "tests.slurm.service", "visit", str(port))
    with trio.fail_after(jobs.PATIENCE):
        while True:
            said = await host.run(*words, check=False)
            if not said.status and said.output.startswith("{"):
                return dict(json.loads(said.output))
            await trio.sleep(0.2)


async def submit(cluster: Cluster, prefix: tuple[str, ...], *words: str) -> Job:
    """Submit a batch script of standard input's: the last word."""
    *options, script = words
    feed = 'script=$1; shift; exec "$@" <<< "$script"'
    command = ("bash", "-c", feed, "bash", f"#!/bin/bash\n{script}", *prefix, "sbatch")
    said = await cluster.login1.run(*command, "--parsable", *options)
    return Job(cluster, said.output.strip())


async def helpers(cluster: Cluster) -> int:
    """Count the processes that serve on all nodes."""
    counts = [
        (await node.run("pgrep", "-fc", "slurm serve", user=ROOT, check=False)).output
        for node in cluster.computes
    ]
    return sum(map(int, counts))


async def test_srun_with_two_ports(
    cluster: Cluster, commands: Commands, prefix: tuple[str, ...]
) -> None:
    """The seed's first example, over two nodes: open for the life of the step, once."""
    task = f"""
    [ $SLURM_PROCID = 0 ] || exit 0
    {SERVICE} 8000 & {SERVICE} 8888 &
    until [ -e enough ]; do sleep 0.1; done
    srun --overlap --nodes=1 --ntasks=1 hostname
    kill $(jobs -p)  # without cgroups Slurm would not
    exit 3
    """
    words = ("srun", "-N2", "--tunnel=8001:8000,8889:8888", "bash", "-c", task)
    step = await commands.start(cluster.login1, *prefix, *words)

    assert (await visit(cluster.login1, 8001))["host"] == "c1"
    assert (await visit(cluster.login1, 8889))["host"] == "c1"
    assert await helpers(cluster) == 1
    await cluster.login1.run("touch", "enough")

    with trio.fail_after(jobs.PATIENCE):
        assert await step.wait() == 3
    await cluster.login1.run("rm", "enough")
    await cluster.no_leftovers()


@pytest.mark.parametrize("export", ["ALL", "NONE"])
async def test_sbatch_with_a_port_here_and_a_third_host(
    cluster: Cluster, commands: Commands, prefix: tuple[str, ...], export: str
) -> None:
    """The seed's second example: L1900:license:1900 and R8001:8000. scancel ends all of it."""
    files = str(Path(__file__).parent)
    server = (sys.executable, "-m", "http.server", "--directory", files, "1900")
    await cluster.license.start(commands.nursery, *server, errors=commands.logs / "license")
    script = f"""
    until {{ exec 3<>/dev/tcp/localhost/1900 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 &&
      grep -q conftest <&3; }} 2>/dev/null; do sleep 0.1; done
    srun hostname
    exec {SERVICE} 8000
    """
    tunnels = "L1900:license:1900,R8001:8000"
    job = await submit(cluster, prefix, f"--export={export}", f"--tunnel={tunnels}", script)

    assert (await visit(cluster.login1, 8001))["job"] == job.number
    assert await helpers(cluster) == 1
    await job.cancel()

    await job.until(jobs.CANCELLED)
    await cluster.no_leftovers()


@pytest.mark.parametrize("end", ["requeue", "power cut"])
async def test_a_job_that_starts_again_on_the_other_node(
    cluster: Cluster, prefix: tuple[str, ...], end: str
) -> None:
    """The port stays, and leads to the other node, without anybody's help."""
    job = await submit(cluster, prefix, "--tunnel=8001:8000", f"exec {SERVICE} 8000")
    host = await job.runs()
    assert (await visit(cluster.login1, 8001))["host"] == host.name
    (other,) = (node for node in cluster.computes if node is not host)

    if end == "requeue":
        await to_other_node(cluster, host)
        await cluster.login1.run("scontrol", "requeue", job.number)
    else:
        await cluster.power_cut(host)

    assert await job.runs(restarts=1) is other
    with trio.fail_after(jobs.PATIENCE):
        while (found := await visit(cluster.login1, 8001))["host"] != other.name:  # noqa: ASYNC110
            await trio.sleep(0.5)
    assert found == {"host": other.name, "job": job.number, "restarts": 1}
    if end == "power cut":
        await cluster.start(host)
    assert await helpers(cluster) == 1
    await job.cancel()
    await cluster.no_leftovers()


async def test_a_job_that_is_cancelled_while_it_waits(
    cluster: Cluster, prefix: tuple[str, ...]
) -> None:
    job = await submit(cluster, prefix, "--hold", "--tunnel=8001:8000", "sleep 1000")

    await job.cancel()

    await job.until(jobs.CANCELLED)
    await cluster.no_leftovers(within=jobs.PATIENCE)


async def test_a_heterogeneous_job(cluster: Cluster, prefix: tuple[str, ...]) -> None:
    """Its batch script, on the first node of its first component, has the tunnel."""
    parts = "#SBATCH --ntasks=1\n#SBATCH hetjob\n#SBATCH --ntasks=2"
    script = f"{parts}\nsrun --het-group=0,1 hostname\nexec {SERVICE} 8000"
    job = await submit(cluster, prefix, "--tunnel=8001:8000", script)

    assert (await visit(cluster.login1, 8001))["job"] == job.number
    assert await helpers(cluster) == 1

    await job.cancel()
    await cluster.no_leftovers()


async def test_salloc(cluster: Cluster, commands: Commands, prefix: tuple[str, ...]) -> None:
    """In the allocation several steps use one tunnel."""
    shell = f"""
    srun --overlap bash -c '{SERVICE} 8000 & until [ -e enough ]; do sleep 0.1; done; kill $!' &
    srun --overlap hostname
    wait
    exit 3
    """
    words = ("salloc", "--tunnel=8001:8000", "bash", "-c", shell)
    allocation = await commands.start(cluster.login1, *prefix, *words)

    assert (await visit(cluster.login1, 8001))["host"] == "c1"
    assert await helpers(cluster) == 1
    await cluster.login1.run("touch", "enough")

    with trio.fail_after(jobs.PATIENCE):
        assert await allocation.wait() == 3
    await cluster.login1.run("rm", "enough")
    await cluster.no_leftovers()


async def test_tasks_of_an_array_have_a_tunnel_each(
    cluster: Cluster, prefix: tuple[str, ...]
) -> None:
    """Their ports here are taken but for the first's; each gets a free one, which is told."""
    script = f"exec {SERVICE} $((8000 + SLURM_ARRAY_TASK_ID))"
    # the service of task 2 alone answers, whatever port leads to it
    array = await submit(cluster, prefix, "--array=1-3", "--tunnel=8001:8002", script)

    ports: dict[int, str] = {}
    with trio.fail_after(jobs.PATIENCE):
        while len(ports) < 3:
            ports = await own_ports(cluster.login1)
            await trio.sleep(0.5)
    assert 8001 in ports

    await array.cancel()
    await cluster.no_leftovers()


async def test_a_port_that_is_taken(
    cluster: Cluster, commands: Commands, prefix: tuple[str, ...]
) -> None:
    """sbatch says so at once; `muxfs status` tells the free one that leads to the job."""
    login = cluster.login1
    rival = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "8001")
    await commands.start(login, *rival, user=OTHER)
    await login.machine.until_succeeds("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8001")
    feed = ("bash", "-c", f"exec \"$@\" <<< '#!/bin/bash\nexec {SERVICE} 8000'", "bash")
    said = await login.run(*feed, *prefix, "sbatch", "--parsable", "--tunnel=8001:8000")
    job = Job(cluster, said.output.strip())

    assert "muxfs: port 8001 of login1 is in use now" in said.errors
    ports: list[str] = []
    with trio.fail_after(jobs.PATIENCE):
        while not ports:
            status = await login.run("muxfs", "status", "--json")
            ports = [p for tunnel in json.loads(status.output)["tunnels"] for p in tunnel["ports"]]
            await trio.sleep(0.5)
    free = int(ports[0].split()[0].rpartition(":")[2])
    assert (await visit(login, free))["job"] == job.number

    await job.cancel()
    await login.run("pkill", "-f", "http.server", user=ROOT)
    await cluster.no_leftovers()


async def test_a_job_that_a_job_submits_has_no_tunnel(
    cluster: Cluster, prefix: tuple[str, ...]
) -> None:
    """Unless it asks for one: sbatch hands on the environment, and scripts submit themselves."""
    count = "pgrep -fc 'muxfs slurm' >inner.tmp; mv inner.tmp inner"
    script = f"""
    sbatch -w c2 -o inner.out --wrap "sleep 3; env >inner.env; {count}"
    until [ -e inner ]; do sleep 0.1; done
    pgrep -fc 'muxfs slurm' >outer
    """
    job = await submit(cluster, prefix, "-w", "c1", "--tunnel=8001:8000", script)
    await job.until(jobs.COMPLETED)
    said = await cluster.login1.run("cat", "outer", "inner")
    environ = await cluster.login1.run("cat", "inner.env", "inner.out")
    await cluster.login1.run("rm", "outer", "inner", "inner.env", "inner.out")
    assert said.output.split() == ["1", "0"], environ.output
    await cluster.no_leftovers()


async def own_ports(host: Host) -> dict[int, str]:
    """Return the ports of helpers that a host listens on."""
    said = await host.run("ss", "-Hltnp", user=ROOT)
    lines = [line.split() for line in said.output.splitlines() if "pid=" in line]
    return {int(words[3].rpartition(":")[2]): words[-1] for words in lines}


OTHER_RELEASE = "24.11.0"
OTHER_VERSION = "#define SLURM_VERSION_NUMBER 0x180b00\n"


def build_for_another_slurm(cluster: Cluster) -> None:
    """Build the plugin with a header that is this Slurm's but for the release."""
    include = cluster.etc / "include" / "slurm"
    include.mkdir(parents=True, exist_ok=True)
    (include / "slurm_version.h").write_text(OTHER_VERSION)
    made = plugin.build(str(cluster.etc / "other.so"), include=str(include.parent))
    assert made == OTHER_RELEASE


async def test_no_job_fails_because_of_the_plugin(cluster: Cluster) -> None:
    """Missing, no library, or made for another Slurm: Slurm says so, and runs the job.

    A muxfs that is missing, or that does nothing, is a warning of the plugin.
    """
    (cluster.etc / "broken.so").write_text("this is no library")
    await trio.to_thread.run_sync(build_for_another_slurm, cluster)
    await trio.to_thread.run_sync(plugin.build, str(cluster.etc / "muxfs.so"))
    try:
        for line, tunnel, warning in (
            ("optional /etc/slurm/missing.so", False, "missing.so"),
            ("optional /etc/slurm/broken.so", False, "broken.so"),
            ("optional /etc/slurm/other.so", False, "other.so"),
            (f"optional {ONE} muxfs=/no/such/muxfs", True, "/no/such/muxfs: No such file"),
            (f"optional {ONE} muxfs=/usr/bin/false unknown=1", True, "unknown option unknown=1"),
        ):
            await cluster.plugins(line + "\n")
            option = ("--tunnel=8001:8000",) if tunnel else ()
            said = await cluster.login1.run("srun", *option, "sh", "-c", "echo ran")
            assert said.output == "ran\n", line
            assert warning in said.errors, line
            job = await submit(cluster, (), *option, "sleep 0.1")
            await job.until(jobs.COMPLETED)
        await cluster.plugins(f"optional {ONE} muxfs={MUXFS}\n")
        inner = ("srun", "--overlap", "echo", "ran")
        for outer in ("srun", "salloc"):
            said = await cluster.login1.run(outer, "--tunnel=8001:8000", *inner)
            assert "ignored" not in said.errors, outer
        second = ("srun", "--overlap", "--tunnel=8002:8000", "echo", "ran")
        said = await cluster.login1.run("srun", "--tunnel=8001:8000", *second)
        assert said.output == "ran\n"
        assert "--tunnel is ignored: this job has a tunnel already" in said.errors
        refused = await cluster.login1.run("srun", "--tunnel=80:1", "echo", "ran", check=False)
        assert refused.status
        assert "only root can listen" in refused.errors
        assert not refused.output
    finally:
        with trio.CancelScope(shield=True):
            await cluster.plugins("")
    await cluster.no_leftovers()
