"""`muxfs stdio`: standard input and output of real processes, and every way in which it ends."""

# ruff: noqa: ASYNC230, ASYNC240  (files here are local)

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from muxfs.cli.failures import IO_ERROR, NO_PERMISSION, UNAVAILABLE, USAGE
from tests.ports import unused_port

from .background import end_all, pids, wait_gone
from .net import (
    MIB,
    Outcome,
    Reader,
    connect,
    discard,
    echo,
    exchange,
    flood,
    outcome,
    receive_all,
    receive_exactly,
    reset,
    send_pattern,
    serve,
)
from .process import Side, Tunnel

NOBODY_READS = 128 + signal.SIGPIPE


@attrs.frozen
class Ended:
    status: int
    out: bytes
    err: str


def argv(tunnel: Tunnel, target: object, *options: str) -> list[str]:
    words = ["-m", "muxfs", "stdio", *options, str(tunnel.directory), str(target)]
    return [sys.executable, *words]


async def stdio(
    tunnel: Tunnel, target: object, *options: str, data: bytes = b"", **how: object
) -> Ended:
    """Run it with `data` as its whole input."""
    how.setdefault("capture_stdout", True)
    done = await trio.run_process(
        argv(tunnel, target, *options),
        **{"stdin": data, "capture_stderr": True, "check": False, **how},
    )
    return Ended(done.returncode, done.stdout or b"", (done.stderr or b"").decode())


async def both(tunnel: Tunnel) -> tuple[Side, Side]:
    """Start both ends, without forwards."""
    listen, dial = await tunnel.listen(options=["--persist", "1h"]), await tunnel.dial()
    for side in (listen, dial):
        await side.event("established")
    return listen, dial


@pytest.fixture
async def joined(tunnel: Tunnel) -> Tunnel:
    """Give a tunnel with both ends, and no forwards."""
    await both(tunnel)
    return tunnel


@pytest.fixture
async def alone(tunnel: Tunnel) -> AsyncIterator[Tunnel]:
    """Give a tunnel with a dialling end only; what runs in the background is ended."""
    await tunnel.dial()
    yield tunnel
    with trio.CancelScope(shield=True):
        await end_all(tunnel.directory)


async def test_input_and_output(joined: Tunnel, nursery: trio.Nursery) -> None:
    """As in `echo hello | muxfs stdio ...`: a half-close, and then the answer."""
    port = await serve(nursery, echo)
    for target in (port, f"localhost:{port}", f"127.0.0.1:{port}"):
        assert await stdio(joined, target, data=b"hello") == Ended(0, b"hello", "")
    assert await stdio(joined, port) == Ended(0, b"", "")


async def test_a_unix_socket(tunnel: Tunnel, nursery: trio.Nursery, tmp_path: Path) -> None:
    path = tmp_path / "a,b"
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()
    nursery.start_soon(trio.serve_listeners, echo, [trio.SocketListener(sock)])
    listen = await tunnel.listen(options=["--persist", "1h"])
    await tunnel.dial("--allow", str(path).replace(",", "\\,"))
    await listen.event("established")
    assert await stdio(tunnel, path, data=b"hello") == Ended(0, b"hello", "")


@pytest.mark.parametrize("size", [1, 65536, 50 * MIB])
async def test_every_byte(joined: Tunnel, nursery: trio.Nursery, size: int) -> None:
    """Both ways at once."""
    data = os.urandom(size)
    done = await stdio(joined, await serve(nursery, echo), data=data)
    assert hashlib.sha256(done.out).digest() == hashlib.sha256(data).digest()
    assert (done.status, done.err) == (0, "")


async def test_server_speaks_first_and_closes_first(joined: Tunnel, nursery: trio.Nursery) -> None:
    """Its end of file comes through while standard input is still open."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await receive_all(stream) == b"bye"
        await stream.aclose()

    port = await serve(nursery, greet)
    process = await trio.lowlevel.open_process(
        argv(joined, port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert b"".join([data async for data in process.stdout]) == b"hello"
    assert process.poll() is None
    await process.stdin.send_all(b"bye")
    await process.stdin.aclose()
    assert await process.wait() == 0


async def test_many_at_once(joined: Tunnel, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)

    async def one(number: int) -> None:
        data = f"{number} ".encode() * 50_000
        done = await stdio(joined, port, data=data)
        assert done == Ended(0, data, "")

    async with trio.open_nursery() as inner:
        for number in range(12):
            inner.start_soon(one, number)


# What standard input and output may be


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(3 * MIB + 1))
    return path


async def test_files(joined: Tunnel, nursery: trio.Nursery, file: Path) -> None:
    port = await serve(nursery, echo)
    copy = file.with_name("copy")
    with file.open("rb") as stdin, copy.open("wb") as stdout:
        done = await stdio(joined, port, stdin=stdin, capture_stdout=False, stdout=stdout)
    assert done.status == 0
    assert copy.read_bytes() == file.read_bytes()
    with file.open("rb") as stdin, copy.open("ab") as stdout:  # splice(2) refuses O_APPEND
        done = await stdio(joined, port, stdin=stdin, capture_stdout=False, stdout=stdout)
    assert done.status == 0
    assert copy.read_bytes() == 2 * file.read_bytes()


@pytest.mark.parametrize("blocking", [True, False])
async def test_sockets(joined: Tunnel, nursery: trio.Nursery, blocking: bool) -> None:
    """As sshd runs commands: one socket for both. Others may have made it non-blocking."""
    port = await serve(nursery, echo)
    ours, theirs = trio.socket.socketpair()
    theirs_stdlib = socket.socket(fileno=theirs.detach())
    theirs_stdlib.setblocking(blocking)
    process = await trio.lowlevel.open_process(
        argv(joined, port), stdin=theirs_stdlib, stdout=theirs_stdlib
    )
    theirs_stdlib.close()
    async with trio.SocketStream(ours) as stream:
        await exchange(stream, "there and back", "there and back", 8 * MIB)
    assert await process.wait() == 0


async def test_a_terminal(joined: Tunnel, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    ours, theirs = pty.openpty()
    process = await trio.lowlevel.open_process(argv(joined, port), stdin=theirs, stdout=theirs)
    os.close(theirs)
    os.write(ours, b"typed\n")
    said = b""
    while said.count(b"typed") < 2:  # the terminal's echo, and the server's
        said += await trio.to_thread.run_sync(os.read, ours, 100)
    os.write(ours, b"\x04")  # Ctrl-D
    assert await process.wait() == 0
    os.close(ours)


async def test_closed_descriptors(joined: Tunnel, nursery: trio.Nursery) -> None:
    """Nothing of ours gets their numbers."""
    port = await serve(nursery, echo)
    words = " ".join(argv(joined, port))
    for redirection, said in (("<&-", b""), ("</dev/null >&-", b""), ("<&- >&- 2>&-", b"")):
        done = await trio.run_process(["sh", "-c", f"{words} {redirection}"], capture_stdout=True)
        assert done.stdout == said


async def test_flags_of_the_callers_pipes_stay(joined: Tunnel, nursery: trio.Nursery) -> None:
    """A pipe that was made non-blocking would break others that use it."""
    port = await serve(nursery, echo)
    stdin, feed = os.pipe()
    result, stdout = os.pipe()
    process = await trio.lowlevel.open_process(argv(joined, port), stdin=stdin, stdout=stdout)
    os.write(feed, b"hello")
    assert await trio.to_thread.run_sync(os.read, result, 100) == b"hello"
    for descriptor in (stdin, stdout):
        assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(descriptor)
    os.close(feed)
    assert await process.wait() == 0
    os.close(result)


# How it ends


async def test_refusals(joined: Tunnel) -> None:
    port = unused_port()
    reason = f"muxfs: ECONNREFUSED localhost:{port}: nothing is listening there\n"
    assert await stdio(joined, port) == Ended(UNAVAILABLE, b"", reason)
    done = await stdio(joined, "license:1900")
    assert done.status == NO_PERMISSION
    assert "license:1900: not allowed" in done.err
    done = await stdio(joined, "no such:thing")
    assert done.status == USAGE
    assert "is not a target" in done.err


async def test_the_other_side_does_not_come(tunnel: Tunnel) -> None:
    await (await tunnel.listen(options=["--persist", "1h"])).event("waiting")
    done = await stdio(tunnel, 1, "--connect-timeout", "200ms")
    assert done == Ended(UNAVAILABLE, b"", "muxfs: no session with the other side within 0.2 s\n")


async def test_through_the_dialling_end(joined: Tunnel) -> None:
    done = await stdio(joined, 1, "--side", "dial")
    assert done.status == NO_PERMISSION
    assert "muxfs listen --allow localhost:1 would allow it" in done.err


async def test_nothing_runs_and_nothing_is_to_be_started(tunnel: Tunnel) -> None:
    for side in ("--persist", "0"), ("--side", "dial"):
        done = await stdio(tunnel, 1, *side)
        assert done.status == UNAVAILABLE
        assert f"runs on this host for {tunnel.directory}" in done.err


async def test_a_reset_is_no_clean_end(joined: Tunnel, nursery: trio.Nursery) -> None:
    async def server(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of it")
        await receive_exactly(stream, 1)
        await reset(stream)

    process = await trio.lowlevel.open_process(
        argv(joined, await serve(nursery, server)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with process.stdin, process.stdout, process.stderr:
        assert await process.stdout.receive_some() == b"half of it"
        await process.stdin.send_all(b"!")
        assert await process.wait() == IO_ERROR
        assert (await process.stderr.receive_some()).count(b"\n") == 1


@pytest.mark.parametrize("victim", ["listen", "dial", "stdio"])
async def test_a_kill_in_mid_transfer(tunnel: Tunnel, nursery: trio.Nursery, victim: str) -> None:
    """Whatever is killed: a failure and a sentence here, and a reset for the server."""
    sides = dict(zip(("listen", "dial"), await both(tunnel), strict=True))
    results, outcomes = trio.open_memory_channel[Outcome](1)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await results.send(await flood(stream, "down", "up"))

    process = await trio.lowlevel.open_process(
        argv(tunnel, await serve(nursery, server)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with process.stdin, process.stdout, process.stderr:
        await Reader(process.stdout, "down").take(4 * MIB)
        if victim == "stdio":
            process.kill()
        else:
            sides[victim].kill()
            if victim == "dial":
                await tunnel.dial()
        async with trio.open_nursery() as inner:
            inner.start_soon(discard, process.stdout)
            status = await process.wait()
            said = (await receive_all(process.stderr)).decode()
    if victim == "stdio":
        assert status == -signal.SIGKILL
    else:
        assert status == IO_ERROR
        assert said.startswith("muxfs: ")
        assert said.count("\n") == 1
    if victim == "listen":
        pid = sides["listen"].process.pid
        assert said == (
            f"muxfs: muxfs listen (pid {pid}) ended, or was killed; the connection is broken\n"
        )
        await tunnel.listen(options=["--persist", "1h"])
    assert await outcomes.receive() == "reset"


def ignoring_resets(handler):
    async def run(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except* trio.BrokenResourceError:
            pass

    return run


async def test_nobody_reads_the_output(joined: Tunnel, nursery: trio.Nursery) -> None:
    """As in `muxfs stdio ... | head -c 1`: quiet, like other filters."""

    async def server(stream: trio.SocketStream) -> None:
        await send_pattern(stream, "down", None)

    process = await trio.lowlevel.open_process(
        argv(joined, await serve(nursery, ignoring_resets(server))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with process.stdin, process.stdout, process.stderr:
        await process.stdout.receive_some(1)
        await process.stdout.aclose()
        assert await process.wait() == NOBODY_READS
        assert await receive_all(process.stderr) == b""


async def test_a_full_disk(joined: Tunnel, nursery: trio.Nursery) -> None:
    async def server(stream: trio.SocketStream) -> None:
        await send_pattern(stream, "down", MIB)
        await stream.aclose()

    port = await serve(nursery, ignoring_resets(server))
    with Path("/dev/full").open("wb") as full:
        done = await stdio(joined, port, capture_stdout=False, stdout=full)
    words = "muxfs: cannot write to standard output: No space left on device\n"
    assert done == Ended(IO_ERROR, b"", words)


async def test_input_that_breaks_off(joined: Tunnel, nursery: trio.Nursery) -> None:
    """The server must not take what it got for all that there was."""
    results, outcomes = trio.open_memory_channel[Outcome](1)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(await receive_exactly(stream, 5))
            await results.send(await outcome(stream))

    port = await serve(nursery, server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stdin = await connect(listener.getsockname()[1])
        theirs, _ = listener.accept()
    process = await trio.lowlevel.open_process(
        argv(joined, port), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    theirs.close()
    async with process.stdout, process.stderr:
        await stdin.send_all(b"begun")
        assert await process.stdout.receive_some() == b"begun"
        await reset(stdin)
        assert await process.wait() == IO_ERROR
        words = f"muxfs: cannot read standard input: {os.strerror(errno.ECONNRESET)}\n"
        assert (await receive_all(process.stderr)).decode() == words
    assert await outcomes.receive() == "reset"


# An end in the background


async def test_an_end_in_the_background(alone: Tunnel, nursery: trio.Nursery) -> None:
    """It outlives its client and the client's terminal and session."""
    port = await serve(nursery, echo)
    words = " ".join(argv(alone, port))
    # a session of its own: it is over, and its pipes are closed, before the end is
    done = await trio.run_process(
        ["setsid", "--wait", "sh", "-c", f"echo hello | {words}"],
        capture_stdout=True,
        capture_stderr=True,
    )
    assert (done.stdout, done.stderr) == (b"hello\n", b"")
    (pid,) = pids(alone.directory)
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    log = os.readlink(f"/proc/{pid}/fd/1")
    assert os.readlink(f"/proc/{pid}/fd/2") == log
    assert Path(log).parent == Path(os.environ["XDG_RUNTIME_DIR"], "muxfs")
    assert Path(log).stat().st_mode & 0o777 == 0o600
    assert await stdio(alone, port, data=b"the same one") == Ended(0, b"the same one", "")
    assert pids(alone.directory) == [pid]
    os.kill(pid, signal.SIGTERM)
    await wait_gone(pid)
    assert pids(alone.directory) == []
    assert await stdio(alone, port, data=b"a new one") == Ended(0, b"a new one", "")
    assert pids(alone.directory) != [pid]


async def test_it_leaves_when_idle(alone: Tunnel, nursery: trio.Nursery) -> None:
    """Idle is an end without connections, not one whose connections are quiet."""
    process = await trio.lowlevel.open_process(
        argv(alone, await serve(nursery, echo), "--persist", "2s"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    async with process.stdin, process.stdout:
        await process.stdin.send_all(b"one")
        assert await process.stdout.receive_some() == b"one"
        (pid,) = pids(alone.directory)
        with trio.move_on_after(2.5):
            await wait_gone(pid)
        await process.stdin.send_all(b"two")
        assert await process.stdout.receive_some() == b"two"
        await process.stdin.aclose()
        assert await process.wait() == 0
    await wait_gone(pid)


async def test_several_at_once_start_one(alone: Tunnel, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)

    async def one(number: int) -> None:
        data = f"I am {number}".encode()
        assert await stdio(alone, port, data=data) == Ended(0, data, "")

    async with trio.open_nursery() as inner:
        for number in range(6):
            inner.start_soon(one, number)
    assert len(pids(alone.directory)) == 1


async def test_one_that_was_killed_is_replaced(alone: Tunnel, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    assert (await stdio(alone, port, data=b"1")).out == b"1"
    (pid,) = pids(alone.directory)
    os.kill(pid, signal.SIGKILL)
    await wait_gone(pid)
    assert (await stdio(alone, port, data=b"2")).out == b"2"


async def test_one_that_cannot_start_says_why(tunnel: Tunnel) -> None:
    tunnel.directory.mkdir(mode=0o777)
    tunnel.directory.chmod(0o777)
    done = await stdio(tunnel, 1)
    assert done.status == NO_PERMISSION
    assert done.err.startswith("muxfs: muxfs listen in the background: other users can write to")
    assert done.err.count("\n") == 1
    done = await stdio(tunnel, 1, "--ring", "1K")
    assert done.status == USAGE
    assert "--ring: 1.0 KiB is not from" in done.err


async def test_the_first_command_of_a_new_account(
    tunnel: Tunnel, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of all tunnels is made by the end in the background."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MUXFS_HOME", raising=False)
    tunnel = attrs.evolve(tunnel, directory=tmp_path / ".muxfs" / "job")
    port = await serve(nursery, echo)
    command = ["-m", "muxfs", "stdio", "--connect-timeout", "60s", "job", str(port)]
    first = await trio.lowlevel.open_process(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        async with first.stdin, first.stdout:
            await first.stdin.send_all(b"hello")
            while not pids(tunnel.directory):  # noqa: ASYNC110  (of a process that is not ours)
                await trio.sleep(0.01)
            await tunnel.dial()
            assert await receive_exactly(first.stdout, 5) == b"hello"
            await first.stdin.aclose()
            assert await first.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            await end_all(tunnel.directory)
    assert (tmp_path / ".muxfs").stat().st_mode & 0o777 == 0o700


async def test_session_options_reach_the_background(alone: Tunnel, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    options = ["--ring", "256K", "--label", "-a b", "--poll", "2ms:20ms", "--insecure-dir"]
    options += ["--max-ops", "50.5"]
    assert (await stdio(alone, port, *options, data=b"!")).out == b"!"
    (pid,) = pids(alone.directory)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    for option in (b"--ring=262144", b"--label=-a b", b"--poll=0.002s:0.02s", b"--insecure-dir"):
        assert option in words
    assert b"--max-ops=50.5" in words
