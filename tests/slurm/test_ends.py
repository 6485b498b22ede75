"""How jobs end, and hosts, and muxfs itself: nothing is left, and a requeued job's tunnel is back.

Each test ends with `no_leftovers`: no process, port, cgroup or mailbox file on any host.
"""

from __future__ import annotations

from . import jobs
from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import ROOT, Host
from .tunnels import PORT, SCRIPT, SERVICE, Tunnelled, listen, open_tunnel, to_other_node

HOLD = (str(PYTHON), "-m", "tests.slurm.service", "hold")
DIAL = "bin/muxfs dial"
"""Stands in the command lines of dialling sides."""


async def dialling_sides(host: Host) -> list[int]:
    said = await host.run("pgrep", "-f", DIAL, user=ROOT, check=False)
    return [int(word) for word in said.output.split()]


async def until_it_is_at(tunnel: Tunnelled, host: Host, restarts: int) -> None:
    """Wait for the job's next instance, and for the tunnel to lead there."""
    assert await tunnel.job.runs(restarts) is host
    await tunnel.until_it_is_at(host)
    await tunnel.is_at(host, restarts)


async def test_a_job_that_ends_by_itself(cluster: Cluster, commands: Commands) -> None:
    """Its end is seen, and the exit status is good."""
    work = f"{SERVICE} {PORT} & until [ -e enough ]; do sleep 0.1; done; kill $!"
    script = f"exec muxfs dial {PORT} -- bash -c '{work}'"
    tunnel = await open_tunnel(cluster, commands, script=script)

    await cluster.login1.run("touch", "enough")

    assert await tunnel.ends() == 0
    await tunnel.job.until(jobs.COMPLETED)
    await cluster.no_leftovers()


async def test_scancel(cluster: Cluster, commands: Commands) -> None:
    tunnel = await open_tunnel(cluster, commands)

    await tunnel.job.cancel()

    assert await tunnel.ends() == 1
    await cluster.no_leftovers()


async def test_scancel_of_a_dialler_in_the_background(cluster: Cluster, commands: Commands) -> None:
    """The shell waits in the foreground: with cgroups, muxfs gets SIGKILL and nothing else."""
    script = f"muxfs dial {PORT} -- {SERVICE} {PORT} &\nsleep 1000"
    tunnel = await open_tunnel(cluster, commands, script=script)

    await tunnel.job.cancel()

    assert await tunnel.ends() == 1
    await cluster.no_leftovers()


async def test_the_time_limit(cluster: Cluster, commands: Commands) -> None:
    tunnel = await open_tunnel(cluster, commands, "--time=1")

    await tunnel.job.until(jobs.TIMEOUT)

    assert await tunnel.ends() == 1
    await cluster.no_leftovers()


async def test_requeue_to_the_other_node(cluster: Cluster, commands: Commands) -> None:
    """The port on the login host stays, and leads to the other node."""
    tunnel = await open_tunnel(cluster, commands)
    other = await to_other_node(cluster, await tunnel.job.runs())

    await cluster.login1.run("scontrol", "requeue", tunnel.job.number)

    await until_it_is_at(tunnel, other, restarts=1)
    await tunnel.job.cancel()
    await tunnel.ends()
    await cluster.no_leftovers()


async def test_a_power_cut_of_the_node(cluster: Cluster, commands: Commands) -> None:
    """Slurm starts the job again on the other node."""
    tunnel = await open_tunnel(cluster, commands)
    host = await tunnel.job.runs()
    (other,) = (node for node in cluster.computes if node is not host)

    await cluster.power_cut(host)

    await until_it_is_at(tunnel, other, restarts=1)
    await cluster.start(host)
    await tunnel.job.cancel()
    await tunnel.ends()
    await cluster.no_leftovers()


async def test_a_partition_longer_than_slurmd_timeout(cluster: Cluster, commands: Commands) -> None:
    """The old instance still runs on the cut-off node, and writes to the shared filesystem.

    The tunnel belongs to the new one.
    """
    tunnel = await open_tunnel(cluster, commands)
    host = await tunnel.job.runs()
    (other,) = (node for node in cluster.computes if node is not host)

    await cluster.partition(host)
    await tunnel.job.until(jobs.PENDING, restarts=1)
    assert await dialling_sides(host), "the old instance is to run next to the new one"
    await until_it_is_at(tunnel, other, restarts=1)
    for _ in range(5):
        await tunnel.is_at(other, 1)
    await cluster.heal(host)
    await tunnel.is_at(other, 1)

    await tunnel.job.cancel()
    await tunnel.ends()
    # Slurm ends the old instance when it hears of the node again: up to 80 s after healing
    await cluster.no_leftovers(within=150)


async def test_kill_9_of_the_dialling_side(cluster: Cluster, commands: Commands) -> None:
    """It is what the job consists of: Slurm ends the rest, as far as it sees it."""
    tunnel = await open_tunnel(cluster, commands)
    host = await tunnel.job.runs()

    (dial,) = await dialling_sides(host)
    await host.run("kill", "-KILL", str(dial))

    await tunnel.ends()
    await tunnel.job.until(*jobs.ENDED)
    if cluster.tracking == "linuxproc":  # without cgroups, a process without its parent is lost
        await host.run("pkill", "-f", "tests.slurm.service")
    await cluster.no_leftovers()


async def test_kill_9_of_the_listening_side(cluster: Cluster, commands: Commands) -> None:
    """The next one, on another login host, takes over, and sweeps what was left."""
    tunnel = await open_tunnel(cluster, commands)

    tunnel.listen.kill()
    await tunnel.listen.process.wait()
    side = await listen(commands, cluster.login2, tunnel.job)
    await side.event("established")
    again = Tunnelled(cluster, commands, tunnel.job, side, cluster.login2)

    await again.is_at(await tunnel.job.runs(), 0)
    await tunnel.job.cancel()
    assert await again.ends() == 1
    await cluster.no_leftovers()


async def test_a_restart_of_the_controller(cluster: Cluster, commands: Commands) -> None:
    """Streams and both sides live on."""
    tunnel = await open_tunnel(cluster, commands)
    holder = await commands.start(cluster.login1, *HOLD, str(await tunnel.listen.port()))
    said = aiter(holder.stdout)
    assert await anext(said) == b"held\n"

    await cluster.restart_controller()

    await tunnel.is_at(await tunnel.job.runs(), 0)
    assert holder.returncode is None
    await tunnel.job.cancel()
    assert await anext(said) in {b"end\n", b"reset\n"}
    await tunnel.ends()
    await cluster.no_leftovers()


async def test_a_job_that_waits_and_is_cancelled(cluster: Cluster, commands: Commands) -> None:
    """The listening side says why the job waits, and ends with it."""
    job = await jobs.submit(cluster, SCRIPT, "--hold")
    side = await listen(commands, cluster.login1, job)
    told = await side.event("job")

    assert (told["state"], told["reason"]) == (jobs.PENDING, "JobHeldUser")
    await job.cancel()
    assert (await side.event("closed"))["event"] == "closed"
    await cluster.no_leftovers()
