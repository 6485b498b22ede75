"""How connections end: refusals, resets, and clients for whom there is no session."""

from __future__ import annotations

import json

import pytest
import trio

from tests.ports import unused_port

from .net import (
    MIB,
    Outcome,
    Reader,
    check_echo,
    check_refused,
    connect,
    discard,
    echo,
    flood,
    outcome,
    receive_exactly,
    reset,
    send_pattern,
    serve,
)
from .process import Tunnel


async def test_refused_dial(tunnel: Tunnel) -> None:
    """The client is reset, and the log says what refused it."""
    target = unused_port()
    listen, _ = await tunnel.connect(target)
    await check_refused(await listen.port(), discard)
    said = json.dumps(await listen.event("refused"))
    assert "ECONNREFUSED" in said
    assert f"localhost:{target}" in said


async def test_refused_dial_after_the_client_has_sent(tunnel: Tunnel) -> None:
    async def send_in_vain(stream: trio.SocketStream) -> None:
        await send_pattern(stream, "in vain", None)

    listen, _ = await tunnel.connect(unused_port())
    for _ in range(10):
        await check_refused(await listen.port(), send_in_vain)


async def test_target_that_the_dial_side_does_not_allow(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    reached = trio.Event()

    async def server(stream: trio.SocketStream) -> None:
        reached.set()
        await stream.aclose()

    listen = await tunnel.listen(await serve(nursery, server))
    await tunnel.dial(f"localhost:{unused_port()}")
    await listen.event("established")
    await check_refused(await listen.port(), discard)
    await listen.event("refused")
    assert not reached.is_set()


@pytest.mark.parametrize("data", [0, MIB])
async def test_clients_reset_reaches_the_server(
    tunnel: Tunnel, nursery: trio.Nursery, data: int
) -> None:
    """RST crosses as RST, idle or with data on the way: truncation is never a clean end."""
    results, outcomes = trio.open_memory_channel[Outcome](1)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"!")
            await results.send(await outcome(stream))

    listen, _ = await tunnel.connect(await serve(nursery, server))
    for _ in range(5):
        stream = await connect(await listen.port())
        assert await receive_exactly(stream, 1) == b"!"
        await send_pattern(stream, "up", data)
        await reset(stream)
        assert await outcomes.receive() == "reset"


@pytest.mark.parametrize("data", [0, MIB])
async def test_servers_reset_reaches_the_client(
    tunnel: Tunnel, nursery: trio.Nursery, data: int
) -> None:
    async def server(stream: trio.SocketStream) -> None:
        await receive_exactly(stream, 1)
        await send_pattern(stream, "down", data)
        await reset(stream)

    listen, _ = await tunnel.connect(await serve(nursery, server))
    for _ in range(5):
        async with await connect(await listen.port()) as stream:
            await stream.send_all(b"?")
            assert await outcome(stream) == "reset"


@pytest.mark.parametrize("resetting", ["client", "server"])
async def test_reset_while_data_flows_both_ways(
    tunnel: Tunnel, nursery: trio.Nursery, resetting: str
) -> None:
    """The end that sends and receives at full speed sees a reset as well, never a clean end.

    The kernel tells a process of a reset once, to whichever of send and receive comes
    first; a splice that asks only its reader would pass an end on.
    """
    results, outcomes = trio.open_memory_channel[Outcome](1)

    async def end_abruptly(stream: trio.SocketStream, out: str, into: str) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(send_pattern, stream, out, None)
            await Reader(stream, into).take(MIB)
            inner.cancel_scope.cancel()
        await reset(stream)

    async def server(stream: trio.SocketStream) -> None:
        if resetting == "server":
            await end_abruptly(stream, "down", "up")
        else:
            async with stream:
                await results.send(await flood(stream, "down", "up"))

    listen, _ = await tunnel.connect(await serve(nursery, server))
    for _ in range(10):
        async with await connect(await listen.port()) as stream:
            if resetting == "client":
                await end_abruptly(stream, "up", "down")
                assert await outcomes.receive() == "reset"
            else:
                assert await flood(stream, "up", "down") == "reset"


async def test_reset_of_one_stream_leaves_the_others(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"!")
            await outcome(stream)

    resetting = await serve(nursery, server)
    answering = await serve(nursery, echo)
    listen, _ = await tunnel.connect(resetting, answering)
    first, second = listen.ports()
    async with await connect(second) as steady:
        for number in range(20):
            stream = await connect(first)
            await receive_exactly(stream, 1)
            await reset(stream)
            await steady.send_all(bytes([number]))
            assert await receive_exactly(steady, 1) == bytes([number])


async def test_client_before_the_session_is_held_and_then_served(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            reader = Reader(stream, "early")
            await reader.take(MIB)
            await stream.send_all(b"late, but here")

    listen = await tunnel.listen(await serve(nursery, server))
    await listen.event("waiting")
    async with await connect(await listen.port()) as stream:
        nursery.start_soon(send_pattern, stream, "early", MIB)
        await tunnel.dial()
        assert await receive_exactly(stream, 14) == b"late, but here"


async def test_client_without_a_session_is_reset_after_the_timeout(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, echo)
    listen = await tunnel.listen(target, options=["--connect-timeout", "1"])
    async with await connect(await listen.port()) as stream:
        assert await outcome(stream) == "reset"
    # The side that waited is as good as new.
    await tunnel.dial()
    await listen.event("established")
    await check_echo(await listen.port())
