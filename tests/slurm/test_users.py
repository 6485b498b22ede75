"""Another user of the login host, who wants in."""

from __future__ import annotations

from .cluster import Cluster
from .commands import Commands
from .environment import PYTHON
from .host import OTHER
from .tunnels import PORT, open_tunnel

CONNECT = """
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as connection:
        print(repr(connection.recv(100)))
except ConnectionResetError:
    print("reset")
"""


async def test_another_user_can_neither_connect_nor_read(
    cluster: Cluster, commands: Commands
) -> None:
    """Even where a home lets others in: the port, the files and the control socket do not."""
    tunnel = await open_tunnel(cluster, commands)
    port = str(await tunnel.listen.port())
    await cluster.login1.run("chmod", "755", "/home/user1")
    mailboxes = (await cluster.login1.run("find", ".muxfs", "-name", "*.mbx")).output.split()
    directory = f"/home/user1/.muxfs/slurm-{tunnel.job.number}"

    connected = await cluster.login1.run(str(PYTHON), "-c", CONNECT, port, user=OTHER)
    reads = [
        await cluster.login1.run("cat", f"/home/user1/{path}", user=OTHER, check=False)
        for path in mailboxes
    ]
    ends = [
        await cluster.c1.run("muxfs", "dial", directory, str(PORT), user=OTHER, check=False),
        await cluster.login2.run("muxfs", "listen", directory, "0:1", user=OTHER, check=False),
        await cluster.login1.run("muxfs", "stdio", directory, "1", user=OTHER, check=False),
    ]
    job = ("listen", "--job", tunnel.job.number, f"0:{PORT}")
    follower = await cluster.login1.run("muxfs", *job, user=OTHER, check=False)

    assert connected.output.strip() == "reset"
    assert len(reads) == 2
    for refused in (*reads, *ends):
        assert refused.status
        assert "Permission denied" in refused.errors, refused
    assert follower.status
    assert "another user" in follower.errors
    await tunnel.is_at(await tunnel.job.runs(), 0)
