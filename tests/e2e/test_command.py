"""`muxfs dial TUNNEL -- COMMAND`: the tunnel lives as long as a real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from .net import check_echo, check_refused, discard
from .process import EVENT_TIMEOUT, Tunnel

SERVER = """\
import os, socket, sys
with socket.create_server(("127.0.0.1", int(os.environ["MUXFS_PORT"]))) as server:
    print("serving", flush=True)
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
    sys.stdin.readline()
"""
"""It takes one connection: whoever tries whether it listens must not use that up."""

OWN_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@attrs.define(eq=False)
class Dial:
    """A running `muxfs dial --json TUNNEL ... -- COMMAND`, whose events are on stderr."""

    process: trio.Process
    log: Path
    said: bytes = b""

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"event"')]

    @property
    def words(self) -> str:
        return self.log.read_text(errors="replace")

    async def event(self, name: str) -> dict[str, Any]:
        with trio.move_on_after(EVENT_TIMEOUT):
            while not (found := [e for e in self.events if e["event"] == name]):  # noqa: ASYNC110
                await trio.sleep(0.05)
            return found[0]
        raise AssertionError(f"no {name}: {self.words}")

    async def says(self, words: bytes) -> None:
        """Read the command's standard output until it holds that."""
        assert self.process.stdout is not None
        with trio.fail_after(EVENT_TIMEOUT):
            while words not in self.said:
                data = await self.process.stdout.receive_some()
                assert data, self.words
                self.said += data

    async def end(self) -> int:
        with trio.fail_after(EVENT_TIMEOUT):
            return await self.process.wait()


@pytest.fixture
async def dial(tunnel: Tunnel, tmp_path: Path) -> Any:
    """Start `muxfs dial --json TUNNEL [targets] -- command`; it has a pipe as standard input."""
    dials: list[Dial] = []

    async def start(*command: str, targets: tuple[str, ...] = ("{port}",)) -> Dial:
        log = tmp_path / f"dial-{len(dials)}.stderr"
        words = ["-m", "muxfs", "dial", "--json", str(tunnel.directory), *targets, *tunnel.options]
        with log.open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, *words, "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        dials.append(Dial(process, log))
        return dials[-1]

    yield start
    with trio.CancelScope(shield=True):
        for each in dials:
            if each.process.returncode is None:
                each.process.kill()
            await each.process.wait()
            for pipe in (each.process.stdin, each.process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def test_a_service_on_a_free_port(dial: Any, tunnel: Tunnel) -> None:
    side = await dial(sys.executable, "-c", SERVER)
    await side.says(b"serving")
    ready = await side.event("ready")
    assert ready["owner"] == os.geteuid()
    listen = await tunnel.run("listen", "0:target:1")
    await check_echo(await listen.port())
    await side.process.stdin.send_all(b"enough\n")  # standard input is the command's
    assert await side.end() == 0
    assert (await side.event("closed"))["reason"] == "the command ended with 0"
    assert (await listen.event("lost"))["code"] == "SHUTDOWN"


async def test_what_the_command_is_told(dial: Any, tunnel: Tunnel) -> None:
    script = 'echo "$MUXFS_TUNNEL $MUXFS_PORT $MUXFS_PORT2 {port} {port2} {port3} $(ulimit -Sn)"'
    targets = ("{port}", "license:1900,4567", "0")
    side = await dial("sh", "-c", f"{script}; echo {{port4}}", targets=targets)
    assert await side.end() == 0
    await side.says(b"\n")
    first = side.said.split()
    assert first[0].decode() == str(tunnel.directory)
    port, last = int(first[1]), int(side.said.split()[-1])
    assert port != last
    assert min(port, last) > 1023
    # that of the third TARGET is said; the second one is on another host
    assert first[2:5] == [str(port).encode(), b"{port2}", b"4567"]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("true", 0)],
)
async def test_exit_codes_pass_through(dial: Any, script: str, code: int) -> None:
    side = await dial("sh", "-c", script)
    assert await side.end() == code
    assert (await side.event("not-ready"))["target"].startswith("localhost:")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("/no/such", 127, "cannot run /no/such: No such file or directory"),
        ("no-such-command", 127, "cannot run no-such-command: there is no such command"),
        ("/etc/passwd", 126, "cannot run /etc/passwd: Permission denied"),
    ],
)
async def test_commands_that_cannot_be_started(
    dial: Any, command: str, code: int, words: str
) -> None:
    side = await dial(command)
    assert await side.end() == code
    assert f"muxfs: {words}" in side.words


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
async def test_signals_pass_through(dial: Any, name: str) -> None:
    """Also those that `sbatch --signal` sends; the command decides what they mean."""
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    side = await dial("bash", "-c", script)
    await side.says(b"ready")
    side.process.send_signal(getattr(signal, f"SIG{name}"))
    assert await side.end() == 5
    await side.says(f"got {name}".encode())


async def test_a_command_may_take_its_time_after_sigterm(dial: Any, tunnel: Tunnel) -> None:
    """The tunnel is there until it has ended: a notebook is being saved through it."""
    script = "trap 'read x; echo $x; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    side = await dial("bash", "-c", script)
    await side.says(b"ready")
    side.process.terminate()
    listen = await tunnel.run("listen", "0:target:1")
    await listen.event("established")
    await side.process.stdin.send_all(b"saved\n")
    await side.says(b"saved")
    assert await side.end() == 3


async def test_a_tunnel_that_is_lost_ends_no_command(dial: Any, tunnel: Tunnel) -> None:
    side = await dial("sh", "-c", "echo ready; read x; echo $x; exit 4")
    await side.says(b"ready")
    other = await tunnel.run("dial", "--takeover")
    await other.event("waiting")
    with trio.fail_after(EVENT_TIMEOUT):
        while "the command goes on" not in side.words:  # noqa: ASYNC110
            await trio.sleep(0.05)
    await side.process.stdin.send_all(b"still here\n")
    await side.says(b"still here")
    assert await side.end() == 4


async def test_targets_by_number(dial: Any, tunnel: Tunnel) -> None:
    side = await dial("sh", "-c", "echo ready; read x")
    await side.says(b"ready")
    listen = await tunnel.run("listen", "0:target:2", "-v")
    await check_refused(await listen.port(), discard)
    assert (await listen.event("refused"))["reason"] == "target:2: muxfs dial was given 1 TARGET"


async def test_ctrl_c_reaches_the_command_once(tunnel: Tunnel, tmp_path: Path) -> None:
    """A terminal sends it to the whole process group."""
    script = "trap 'echo got it' INT; echo ready; for i in 1 2 3 4; do sleep 0.1; done; read x"
    command = [sys.executable, "-m", "muxfs", "dial", "-q", str(tunnel.directory), "{port}", "--"]
    terminal, inside = os.openpty()
    words = [sys.executable, "-c", OWN_TERMINAL, *command, "bash", "-c", script]
    process = await trio.lowlevel.open_process(words, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    said = b""

    async def until(words: bytes) -> None:
        nonlocal said
        with trio.fail_after(EVENT_TIMEOUT):
            while words not in said:
                await trio.lowlevel.wait_readable(terminal)
                said += os.read(terminal, 4096)

    try:
        await until(b"ready")
        os.write(terminal, b"\x03")
        await until(b"got it")
        os.write(terminal, b"enough\n")
        with trio.fail_after(EVENT_TIMEOUT):
            assert await process.wait() == 0
        assert said.count(b"got it") == 1
    finally:
        os.close(terminal)
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.parametrize(
    ("shell", "command", "said"),
    [
        # nohup, and what a script puts into the background, ignore signals
        ('trap "" INT HUP USR1', "grep SigIgn /proc/self/status", b"0000000000000203\n"),
        (":", 'cat <(echo "kept open")', b"kept open\n"),
    ],
)
async def test_what_a_shell_has_set_up(
    tunnel: Tunnel, shell: str, command: str, said: bytes
) -> None:
    dial = f"{sys.executable} -m muxfs dial -q {tunnel.directory} 4567"
    words = ["bash", "-c", f"{shell}; exec {dial} -- {command}"]
    with trio.fail_after(EVENT_TIMEOUT):
        done = await trio.run_process(words, capture_stdout=True)
    assert done.stdout.endswith(said)


async def test_a_kernel_without_descriptors_of_processes(
    dial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.3: that of RHEL 8 is one."""
    old = "import errno, os\ndef no(*_): raise OSError(errno.ENOSYS, '')\nos.pidfd_open = no\n"
    (tmp_path / "sitecustomize.py").write_text(old)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    side = await dial("sh", "-c", "echo ready; exit 6")
    assert await side.end() == 6
