"""How each peer is started: on this machine, by this script, with no settings of the user's.

A peer is a function that takes a service's port and gives a context with a `Running`: the
local port through which the peer leads to that service, and the processes it consists of.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import attrs

from bench import endpoints
from muxfs.sealing.files import create_key

READY = 30.0
TMPFS = Path("/dev/shm")
MUXFS = ("-m", "muxfs")


@attrs.frozen
class Running:
    """A peer at work."""

    name: str
    port: int
    sides: Sequence[int] = ()
    """A process for each side; their descendants count as well."""
    share: int = 1
    """One of so many parts of each bulk transfer is enough: it is slow."""
    most_streams: int = 100_000
    bulk_only: bool = False

    def part(self, count: int) -> int:
        """Return how much of a work this peer does; of anything at least one."""
        return max(1, count // self.share)


Peer = Callable[[int], AbstractContextManager[Running]]


def free_port() -> int:
    """Return a port of localhost that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def started(argv: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process for the time of a block; what it says on stderr goes to `log`."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """Give a private directory that is removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="muxfs-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def wait_for_echo(port: int, log: Path) -> None:
    """Return once the service answers through a local port."""
    deadline = time.monotonic() + READY
    while True:
        try:
            endpoints.short_connection(port)
        except (OSError, endpoints.Truncated) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no way through port {port}: {log.read_text()}") from error
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def service() -> Iterator[int]:
    """Run the service that all peers lead to; give its port."""
    with scratch() as place:
        argv = [sys.executable, "-m", "bench.endpoints", "serve"]
        with started(argv, place / "log") as process:
            assert process.stdout is not None
            yield int(process.stdout.readline())


@contextlib.contextmanager
def direct(target: int) -> Iterator[Running]:
    """No tunnel at all."""
    yield Running("tcp", target)


@contextlib.contextmanager
def socat(target: int) -> Iterator[Running]:
    """Two socats in a chain, as a tunnel with one process on each side would be."""
    with scratch() as place, contextlib.ExitStack() as stack:
        processes, port = [], target
        for hop in range(2):
            before, port = port, free_port()
            argv = ["socat", "-b", "262144"]
            argv += [f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024,nodelay"]
            argv += [f"TCP:127.0.0.1:{before},nodelay"]
            processes.append(stack.enter_context(started(argv, place / f"log{hop}")).pid)
        wait_for_echo(port, place / "log1")
        yield Running("socat x 2", port, processes)


@contextlib.contextmanager
def fileforward(target: int) -> Iterator[Running]:
    """Run a stand-in for FileForward's method, on tmpfs as the others."""
    with scratch(TMPFS) as place, scratch() as logs, contextlib.ExitStack() as stack:
        port, processes = free_port(), []
        for command, at in (("dial", target), ("listen", port)):
            argv = [sys.executable, "-m", "bench.fileforward", command, str(place), str(at)]
            processes.append(stack.enter_context(started(argv, logs / command)).pid)
        wait_for_echo(port, logs / "listen")
        yield Running("FileForward*", port, processes, share=100, most_streams=100)


def _make_key(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _sshd_arguments(place: Path, port: int) -> list[str]:
    # sshd insists on its absolute path, since it starts itself again for each connection.
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if sshd is None:
        raise RuntimeError("sshd is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": place / "host",
        "AuthorizedKeysFile": place / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
    }
    settings = [f"-o{name}={value}" for name, value in options.items()]
    return [sshd, "-D", "-e", "-f", "/dev/null", *settings]


def ssh(name: str, cipher: str = "") -> Peer:
    """Make a peer of `ssh -L` to an sshd of its own; without a cipher its default one."""

    @contextlib.contextmanager
    def run(target: int) -> Iterator[Running]:
        with scratch() as place, contextlib.ExitStack() as stack:
            for key in ("host", "user"):
                _make_key(place / key)
            ssh_port, port = free_port(), free_port()
            sshd = _sshd_arguments(place, ssh_port)
            server = stack.enter_context(started(sshd, place / "sshd.log"))
            _wait_for_port(ssh_port)
            argv = ["ssh", "-F", "none", "-N", "-p", str(ssh_port), "-i", str(place / "user")]
            argv += ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"]
            argv += ["-oBatchMode=yes", "-oExitOnForwardFailure=yes", "-oIdentitiesOnly=yes"]
            argv += [f"-oCiphers={cipher}"] if cipher else []
            argv += ["-L", f"127.0.0.1:{port}:127.0.0.1:{target}", "127.0.0.1"]
            client = stack.enter_context(started(argv, place / "ssh.log"))
            wait_for_echo(port, place / "ssh.log")
            yield Running(name, port, [client.pid, server.pid])

    return run


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + READY
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def muxfs(
    name: str,
    parent: Path = TMPFS,
    options: Sequence[str] = (),
    *,
    program: Sequence[str] = MUXFS,
    sealed: bool = False,
    bulk_only: bool = False,
) -> Peer:
    """Make a peer of `muxfs listen` and `muxfs dial` on a directory below `parent`.

    `program`: what Python runs; `sealed`: with a key on both sides; `bulk_only`: only for works
    with one bulk stream.
    """

    @contextlib.contextmanager
    def run(target: int) -> Iterator[Running]:
        with scratch(parent) as place, scratch() as logs, contextlib.ExitStack() as stack:
            forward = f"0:127.0.0.1:{target}"
            processes = []
            port = 0
            key = ["--key-file", str(logs / "key")] if sealed else []
            if sealed:
                create_key(logs / "key")
            for command, arguments in (("dial", [f"127.0.0.1:{target}"]), ("listen", [forward])):
                argv = [sys.executable, *program, command, str(place / "t"), *arguments]
                log = logs / command
                process = stack.enter_context(started([*argv, *options, *key, "--json"], log))
                processes.append(process.pid)
                assert process.stdout is not None
                if command == "listen":
                    port = _event(process.stdout, "listening", log)
                    _event(process.stdout, "established", log)
                threading.Thread(target=process.stdout.read, daemon=True).start()
            wait_for_echo(port, logs / "listen")
            yield Running(name, port, processes, bulk_only=bulk_only)

    return run


def _event(lines: IO[str], name: str, log: Path) -> int:
    """Read up to an event; return its port, if it has one."""
    for line in lines:
        event = json.loads(line)
        if event["event"] == name:
            return int(event.get("port", 0))
    raise RuntimeError(f"muxfs ended: {log.read_text()}")
