"""The cluster itself: without these, the tests on it would prove nothing."""

from __future__ import annotations

import sys

import pytest
import trio

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import OTHER, ROOT, Host

PORT = 8888
ANSWER = """
import socket
with socket.create_server(("0.0.0.0", 8888)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 8888), timeout=2).close()
    print("open")
except TimeoutError:
    print("dropped")
"""


async def reaches(source: Host, address: str) -> str:
    """Try TCP from one host to another one."""
    return (await source.run(str(PYTHON), "-c", CONNECT, address)).output.strip()


async def test_the_firewall_drops_tcp_between_login_and_compute_hosts(
    cluster: Cluster, commands: Commands
) -> None:
    """Each port answers to the hosts of its own kind, and to no others."""
    for host in (cluster.login1, cluster.c1):
        server = await commands.start(host, str(PYTHON), "-c", ANSWER)
        assert await anext(aiter(server.stdout)) == b"ready\n"

    ways = [
        (cluster.login1, "c1"),
        (cluster.login2, "c1"),
        (cluster.c1, "login1"),
        (cluster.c2, "login1"),
        (cluster.c2, "c1"),
        (cluster.login2, "login1"),
    ]
    found = [(source.name, to, await reaches(source, to)) for source, to in ways]

    assert found == [
        ("login1", "c1", "dropped"),
        ("login2", "c1", "dropped"),
        ("c1", "login1", "dropped"),
        ("c2", "login1", "dropped"),
        ("c2", "c1", "open"),
        ("login2", "login1", "open"),
    ]


async def test_jobs_run_on_both_nodes_as_their_user(cluster: Cluster) -> None:
    said = await cluster.login1.run("srun", "-N2", "sh", "-c", "hostname; id -un", user=OTHER)

    assert sorted(said.output.split()) == ["c1", "c2", OTHER, OTHER]


async def test_users_run_the_muxfs_of_this_checkout(cluster: Cluster) -> None:
    where = "import muxfs, sys; print(muxfs.__file__, sys.version_info[:3])"
    said = await cluster.login1.run("srun", str(PYTHON), "-c", where)
    path, _, version = said.output.strip().partition(" ")

    assert path.startswith("/opt/muxfs/")
    assert version == str(sys.version_info[:3])
    assert (await cluster.login1.run("srun", "muxfs", "--version")).output.startswith("muxfs ")


async def test_a_home_is_its_users_alone(cluster: Cluster) -> None:
    refused = await cluster.login1.run("ls", "/home/user1", user=OTHER, check=False)

    assert "Permission denied" in refused.errors


async def test_leftovers_are_found(cluster: Cluster, commands: Commands) -> None:
    """A process, a port and a mailbox, each where it hides."""
    await cluster.c1.run("touch", "dial.mbx")
    server = await commands.start(cluster.c2, str(PYTHON), "-c", ANSWER)
    assert await anext(aiter(server.stdout)) == b"ready\n"

    with pytest.raises(AssertionError) as caught:
        await cluster.no_leftovers(within=2)

    words = str(caught.value)
    assert f"c2: tcp port {PORT} of 2001" in words
    assert "c2: process" in words
    assert "mailbox /shared/home/user1/dial.mbx" in words
    server.kill()
    await cluster.login2.run("rm", "dial.mbx")
    await cluster.no_leftovers()


async def test_a_cancelled_job_leaves_nothing_with_cgroups(cluster: Cluster) -> None:
    """What its script has started is ended with it, even in a session of its own."""
    if cluster.tracking != "cgroup":
        pytest.skip("without cgroups, Slurm loses sight of such processes")
    job = await jobs.submit(cluster, "setsid sleep 1000 & sleep 1000")
    await job.runs()

    await job.cancel()

    await job.until(jobs.CANCELLED)
    await cluster.no_leftovers()


async def test_a_power_cut_ends_a_host_and_its_disk_stays(cluster: Cluster) -> None:
    await cluster.c1.run("sh", "-c", "echo here > kept", user=ROOT)

    await cluster.power_cut(cluster.c1)

    assert not await cluster.c1.machine.answers()
    await cluster.start(cluster.c1)
    assert (await cluster.c1.run("cat", "kept", user=ROOT)).output == "here\n"
    await cluster.c1.run("rm", "kept", user=ROOT)


async def test_a_partition_cuts_the_network_and_heals(cluster: Cluster) -> None:
    ping = ("timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/ctl/6817")
    assert not (await cluster.c1.run(*ping, check=False)).status

    await cluster.partition(cluster.c1)

    assert (await cluster.c1.run(*ping, check=False)).status
    await cluster.heal(cluster.c1)
    with trio.fail_after(30):
        while (await cluster.c1.run(*ping, check=False)).status:
            pass


async def test_a_controller_restarts_with_its_jobs(cluster: Cluster) -> None:
    job = await jobs.submit(cluster, "sleep 1000")
    await job.runs()

    await cluster.restart_controller()

    await job.runs()
