"""`muxfs local`: a port whose connections are carried by real commands."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from .background import end_all, wait_gone
from .net import (
    MIB,
    check_echo,
    check_refused,
    connect,
    discard,
    echo,
    exchange,
    outcome,
    receive_all,
    receive_exactly,
    reset,
    send_pattern,
    serve,
)
from .process import Side, Tunnel

Local = Callable[..., Awaitable[Side]]


@pytest.fixture
def local(tunnel: Tunnel) -> Local:
    """Start `muxfs local 0 [options] -- sh -c SCRIPT`."""

    async def start(script: str, *options: str) -> Side:
        words = ["local", "0", "--json", "-v", *options, "--", "sh", "-c", script]
        return await tunnel.start("local", words)

    return start


def children(side: Side) -> list[int]:
    """Return the processes that it is the parent of."""
    tasks = Path(f"/proc/{side.process.pid}/task")  # each thread has its own
    words = " ".join(path.read_text() for path in tasks.glob("*/children"))
    return [int(word) for word in words.split()]


async def test_a_command_for_each_connection(local: Local) -> None:
    side = await local("cat")
    port = await side.port()
    await check_echo(port)
    async with await connect(port) as stream:
        await exchange(stream, "there and back", "there and back", 8 * MIB)
    assert children(side) == []


async def test_half_close_by_the_command(local: Local, tmp_path: Path) -> None:
    """A server that ends first: its end comes through, and the client may go on."""
    side = await local(f"echo hello; exec >&-; cat >{tmp_path}/got")
    async with await connect(await side.port()) as stream:
        assert await receive_all(stream) == b"hello\n"
        await stream.send_all(b"goes on")
        await stream.send_eof()
        (event,) = [await side.event("ended")]
        assert event["clean"]
    assert await trio.Path(tmp_path / "got").read_bytes() == b"goes on"


async def test_a_failed_command_is_no_clean_end(local: Local) -> None:
    """Whatever it sent before, the client must not take it for all; and why is told, once."""
    side = await local("echo half; printf 'it \\033[31mbroke\\n' >&2; exit 3")
    port = await side.port()
    for _ in range(3):
        async with await connect(port) as stream:
            assert await outcome(stream) == "reset"
    said = [event["text"] for event in side.events if event["event"] == "stderr"]
    assert said == ["it \\x1b[31mbroke"]
    assert children(side) == []


async def test_a_command_that_does_not_exist(tunnel: Tunnel) -> None:
    side = await tunnel.start("local", ["local", "0", "--json", "--", "/no/such/thing"])
    await check_refused(await side.port(), discard)
    refused = await side.event("refused")
    assert refused["reason"] == "cannot run /no/such/thing: No such file or directory"


@pytest.mark.parametrize("script", ["exec sleep 1000", "trap '' TERM; echo; cat >/dev/null"])
async def test_a_child_ends_with_its_connection(
    local: Local, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = await local(script)
    stream = await connect(await side.port())
    with trio.fail_after(60):
        while not children(side):  # noqa: ASYNC110  (nothing tells when)
            await trio.sleep(0.01)
    (child,) = children(side)
    await reset(stream)
    await wait_gone(child)
    await side.event("ended")
    assert children(side) == []


async def test_children_are_bounded(local: Local) -> None:
    side = await local("cat", "--most", "3")
    port = await side.port()
    streams = [await connect(port) for _ in range(5)]
    for stream in streams[:3]:
        await stream.send_all(b"x")
        assert await receive_exactly(stream, 1) == b"x"
    await side.event("overloaded")
    assert len(children(side)) == 3
    for stream in streams[:2]:
        await stream.aclose()
    for stream in streams[3:]:  # they waited
        await stream.send_all(b"y")
        assert await receive_exactly(stream, 1) == b"y"
    for stream in streams[2:]:
        await stream.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_its_children_end_with_it(local: Local, number: int) -> None:
    side = await local("exec sleep 1000")
    stream = await connect(await side.port())
    with trio.fail_after(60):
        while not children(side):  # noqa: ASYNC110
            await trio.sleep(0.01)
    (child,) = children(side)
    side.process.send_signal(number)
    assert await side.process.wait() == 128 + number
    await wait_gone(child)
    await stream.aclose()


@pytest.fixture
async def far_service(tunnel: Tunnel, nursery: trio.Nursery) -> AsyncIterator[int]:
    """Give the port of an echo server that a dialling end reaches."""
    port = await serve(nursery, echo)
    await tunnel.dial()
    yield port
    with trio.CancelScope(shield=True):
        await end_all(tunnel.directory)


async def test_through_a_tunnel(local: Local, tunnel: Tunnel, far_service: int) -> None:
    """As from a laptop by ssh: nothing else was started on this host."""
    words = [sys.executable, "-m", "muxfs", "stdio", str(tunnel.directory), str(far_service)]
    side = await local(f"exec {shlex.join(words)}")
    port = await side.port()

    async def one(number: int) -> None:
        async with await connect(port) as stream:
            await exchange(stream, f"there and back {number}", f"there and back {number}", MIB)

    async with trio.open_nursery() as inner:
        for number in range(6):
            inner.start_soon(one, number)
    words[-1] = "1"
    side = await local(f"exec {shlex.join(words)}")
    await check_refused(await side.port(), discard)
    said = await side.event("stderr")
    assert said["text"] == "muxfs: ECONNREFUSED localhost:1: nothing is listening there"


async def test_its_end_resets_what_it_carries(local: Local) -> None:
    side = await local("exec cat")
    stream = await connect(await side.port())
    await send_pattern(stream, "up", 1000)
    await receive_exactly(stream, 1)
    os.kill(side.process.pid, signal.SIGTERM)
    assert await outcome(stream) == "reset"
    await stream.aclose()
