"""ssh, scp, sftp, rsync and git through `muxfs stdio` to a real sshd.

Only its own host reaches it. On the host of the clients nothing else runs: the first one
starts an end in the background.
"""

# ruff: noqa: ASYNC240  (files here are local)

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from tests.ports import unused_port

from .background import end_all, pids
from .net import MIB, connect
from .process import Tunnel, also_sealed

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PRIVILEGE_SEPARATION = Path("/run/sshd")

pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="sshd and ssh are not installed"
)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@attrs.frozen
class Node:
    """A compute node, as ~/.ssh/config has it: `ssh -F config node`."""

    config: Path
    tunnel: Tunnel

    @property
    def ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.config)]

    async def run(self, *argv: str, data: bytes = b"") -> bytes:
        """Run a client, which must succeed."""
        done = await trio.run_process(
            argv,
            stdin=data,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "GIT_SSH_COMMAND": shlex.join(self.ssh)},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture
async def node(tunnel: Tunnel, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Node]:
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        await trio.run_process(keygen)
    port = unused_port()
    (tmp_path / "sshd_config").write_text(f"""\
ListenAddress 127.0.0.1:{port}
HostKey {tmp_path}/host
AuthorizedKeysFile {tmp_path}/user.pub
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
""")
    muxfs = shlex.join(
        [sys.executable, "-m", "muxfs", "stdio", *tunnel.options, str(tunnel.directory)]
    )
    config = tmp_path / "config"
    config.write_text(f"""\
Host node
  HostName localhost
  Port {port}
  User {getpass.getuser()}
  ProxyCommand {muxfs} %h:%p
  IdentityFile {tmp_path}/user
  IdentitiesOnly yes
  BatchMode yes
  UserKnownHostsFile {tmp_path}/known_hosts
  StrictHostKeyChecking accept-new
  LogLevel ERROR
""")
    with (tmp_path / "sshd.log").open("wb") as log:
        sshd = await trio.lowlevel.open_process(
            [str(SSHD), "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log
        )
    try:
        await listens(port)
        await tunnel.dial(str(port))
        yield Node(config, tunnel)
    finally:
        with trio.CancelScope(shield=True):
            sshd.terminate()
            await sshd.wait()
            await end_all(tunnel.directory)
        print((tmp_path / "sshd.log").read_text(errors="replace"))


async def listens(port: int) -> None:
    with trio.fail_after(60):
        while True:
            with contextlib.suppress(OSError):
                async with await connect(port):
                    return
            await trio.sleep(0.02)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(20 * MIB + 3))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@also_sealed
async def test_ssh(node: Node, data: Path) -> None:
    assert await node.run(*node.ssh, "node", "echo hello") == b"hello\n"
    content = data.read_bytes()
    assert await node.run(*node.ssh, "node", "cat", data=content) == content
    done = await trio.run_process([*node.ssh, "node", "exit 7"], check=False)
    assert done.returncode == 7
    assert len(pids(node.tunnel.directory)) == 1


async def test_what_sshd_forwards_is_the_own_users(node: Node, tmp_path: Path) -> None:
    """As from a laptop by `ssh -L`: a port that admits only its user takes it."""
    (sshd,) = re.findall(r"ListenAddress \S+:(\d+)", (tmp_path / "sshd_config").read_text())
    listen = await node.tunnel.listen(int(sshd))
    await listen.event("established")
    to_the_port = [*node.ssh, "-W", f"127.0.0.1:{await listen.port()}", "node"]
    assert (await node.run(*to_the_port)).startswith(b"SSH-2.0-")


async def test_several_at_once(node: Node) -> None:
    async def one(number: int) -> None:
        content = os.urandom(MIB)
        assert await node.run(*node.ssh, "node", "cat", data=content) == content, number

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one, number)


@also_sealed
@needs("scp")
async def test_scp(node: Node, data: Path) -> None:
    there, back = data.with_name("there"), data.with_name("back")
    await node.run("scp", "-F", str(node.config), str(data), f"node:{there}")
    await node.run("scp", "-F", str(node.config), f"node:{there}", str(back))
    assert digest(data) == digest(there) == digest(back)


@needs("sftp")
async def test_sftp(node: Node, data: Path) -> None:
    there, back = data.with_name("there"), data.with_name("back")
    batch = f"put {data} {there}\nget {there} {back}\n".encode()
    await node.run("sftp", "-F", str(node.config), "-b", "-", "node", data=batch)
    assert digest(data) == digest(there) == digest(back)


@also_sealed
@needs("rsync")
async def test_rsync(node: Node, data: Path) -> None:
    source, there, back = (data.with_name(name) for name in ("source", "there", "back"))
    source.mkdir()
    for number in range(50):
        (source / f"file{number}").write_bytes(os.urandom(number * 1000))
    data.rename(source / "data")
    shell = shlex.join(node.ssh)
    await node.run("rsync", "-a", "-e", shell, f"{source}/", f"node:{there}/")
    await node.run("rsync", "-a", "-e", shell, f"node:{there}/", f"{back}/")
    for directory in (there, back):
        assert {path.name: digest(path) for path in directory.iterdir()} == {
            path.name: digest(path) for path in source.iterdir()
        }


@needs("git")
async def test_git(node: Node, data: Path) -> None:
    there, here = data.with_name("there.git"), data.with_name("here")
    who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    await node.run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(there))
    await node.run("git", "clone", "--quiet", f"ssh://node{there}", str(here))
    data.rename(here / "data")
    in_here = ["git", "-C", str(here), *who]
    await node.run(*in_here, "add", "data")
    await node.run(*in_here, "commit", "--quiet", "-m", "data")
    await node.run(*in_here, "push", "--quiet", "origin", "HEAD:main")
    again = data.with_name("again")
    await node.run("git", "clone", "--quiet", "-b", "main", f"ssh://node{there}", str(again))
    assert digest(again / "data") == digest(here / "data")


async def test_a_killed_end_breaks_ssh_off(node: Node) -> None:
    process = await trio.lowlevel.open_process(
        [*node.ssh, "node", "echo begun; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with process.stdin, process.stdout, process.stderr:
        assert await process.stdout.receive_some() == b"begun\n"
        (pid,) = pids(node.tunnel.directory)
        os.kill(pid, signal.SIGKILL)
        assert await process.wait() == 255
        said = b"".join([piece async for piece in process.stderr]).decode()
        assert f"muxfs listen (pid {pid}) ended, or was killed" in said
    assert await node.run(*node.ssh, "node", "echo again") == b"again\n"
