"""ssh, scp and a session as VS Code's, into a job that runs a sshd of its user's own.

As docs/slurm.md has it: nothing but `muxfs stdio` on the login host, and nothing is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from . import jobs
from .cluster import Cluster
from .environment import PYTHON
from .host import Host

OPTIONS = (
    *("-D", "-e", "-f", "/dev/null", "-p", "{port}", "-o", "ListenAddress=127.0.0.1"),
    *("-o", "HostKey=$HOME/hostkey", "-o", "PidFile=none", "-o", "UsePAM=no"),
    *("-o", "StrictModes=no", "-o", "'Subsystem=sftp internal-sftp'"),
)
SCRIPT = f"exec muxfs dial {{port}} -- /usr/sbin/sshd {' '.join(OPTIONS)}"
KEYS = """
chmod 700 .ssh

ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
cp .ssh/id_ed25519.pub .ssh/authorized_keys
cat > .ssh/config <<CONFIG
Host job
  ProxyCommand muxfs stdio {tunnel} target:1
  HostKeyAlias muxfs-job
  StrictHostKeyChecking accept-new
CONFIG
"""
# What Remote-SSH does: a shell without a terminal at the end of a connection with a SOCKS proxy.
# The shell starts a server on a free port there, and says which; the editor comes by the proxy.
EDITOR = r"""
mkfifo to from
ssh -T -D 1080 job bash < to > from & ssh=$!
exec 3> to 4< from
cat >&3 <<'THERE'
mkdir -p .vscode-server && cd .vscode-server && hostname > where
PYTHON -u -m http.server 0 --bind 127.0.0.1 > log 2>&1 &
until grep -o 'port [0-9]*' log; do sleep 0.1; done
THERE
read -r _ port <&4
curl --silent --show-error --fail --socks5-hostname localhost:1080 http://localhost:$port/where
echo 'kill %1' >&3
exec 3>&-
cat <&4
"""


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[Host]:
    """Give the host of a job with a sshd, which `ssh job` on login2 leads to."""
    await cluster.login1.run("sh", "-c", "ssh-keygen -q -t ed25519 -N '' -f hostkey && mkdir .ssh")
    job = await jobs.submit(cluster, SCRIPT)
    node = await job.runs()
    await cluster.login2.run("sh", "-ec", KEYS.format(tunnel=f"slurm-{job.number}"))
    yield node
    await job.cancel()
    await cluster.no_leftovers()


async def test_ssh_and_scp(cluster: Cluster, node: Host) -> None:
    said = await cluster.login2.run("ssh", "job", "hostname; id -un")

    assert said.output.split() == [node.name, "user1"]
    said = await cluster.login2.run("ssh", "-tt", "job", "test -t 0 && echo a terminal")
    assert said.output.strip() == "a terminal"
    await cluster.login2.run("sh", "-c", "head -c 5000000 /dev/urandom > /tmp/sent")
    await cluster.login2.run("scp", "-q", "/tmp/sent", "job:/tmp/there")
    await cluster.login2.run("scp", "-q", "job:/tmp/there", "/tmp/back")
    await cluster.login2.run("cmp", "/tmp/sent", "/tmp/back")
    assert (await node.run("stat", "-c", "%s", "/tmp/there")).output.strip() == "5000000"


async def test_a_session_as_vs_codes(cluster: Cluster, node: Host) -> None:
    said = await cluster.login2.run("bash", "-ec", EDITOR.replace("PYTHON", str(PYTHON)))

    assert said.output.strip() == node.name
