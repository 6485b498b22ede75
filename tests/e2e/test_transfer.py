"""Bytes across the tunnel: many connections, both directions, each way of ending."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from .net import (
    MIB,
    check_echo,
    connect,
    echo,
    exchange,
    receive_all,
    receive_exactly,
    send_pattern,
    serve,
)
from .process import Tunnel, also_sealed

places = pytest.mark.parametrize("place", ["tmpfs", "disk"], indirect=True)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@also_sealed
@places
async def test_many_connections_full_duplex(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """20 connections at once, 2 MiB of random bytes each way, sha256 compared."""
    connections, length = 20, 2 * MIB
    upstream: dict[int, str] = {}
    all_arrived = trio.Event()

    def payload(connection: int, way: str) -> bytes:
        return random.Random(f"{way} {connection}").randbytes(length)

    async def send(stream: trio.SocketStream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async def server(stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as inner:
            connection = int.from_bytes(await receive_exactly(stream, 4), "big")
            inner.start_soon(send, stream, payload(connection, "down"))
            upstream[connection] = sha256(await receive_all(stream))
            if len(upstream) == connections:
                all_arrived.set()

    async def client(port: int, connection: int) -> None:
        async with await connect(port) as stream, trio.open_nursery() as inner:
            up = payload(connection, "up")
            inner.start_soon(send, stream, connection.to_bytes(4, "big") + up)
            down = sha256(await receive_all(stream))
            assert down == sha256(payload(connection, "down"))

    listen, _ = await tunnel.connect(await serve(nursery, server))
    async with trio.open_nursery() as clients:
        for connection in range(connections):
            clients.start_soon(client, await listen.port(), connection)
    await all_arrived.wait()  # a client is done before its last bytes are there
    expected = {n: sha256(payload(n, "up")) for n in range(connections)}
    assert upstream == expected


async def run_exchanges(
    tunnel: Tunnel,
    nursery: trio.Nursery,
    connections: int,
    length: int,
    options: Sequence[str] = (),
) -> None:
    """Full duplex exchanges at once; each byte of each is checked at both ends."""

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            number = (await receive_exactly(stream, 1))[0]
            await exchange(stream, f"down {number}", f"up {number}", length)

    async def client(port: int, number: int) -> None:
        async with await connect(port) as stream:
            await stream.send_all(bytes([number]))
            await exchange(stream, f"up {number}", f"down {number}", length)

    listen, _ = await tunnel.connect(await serve(nursery, server), options=options)
    async with trio.open_nursery() as clients:
        for number in range(connections):
            clients.start_soon(client, await listen.port(), number)


@places
async def test_two_connections_of_5_mib(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    await run_exchanges(tunnel, nursery, 2, 5 * MIB)


@also_sealed
@places
async def test_smallest_ring(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """Forty times around a ring of 256 KiB, both full all the time."""
    await run_exchanges(tunnel, nursery, 4, 5 * MIB // 2, ["--ring", "256K"])


@also_sealed
@pytest.mark.parametrize("size", [1024, 64 * 1024, MIB])
async def test_half_close_then_reply(tunnel: Tunnel, nursery: trio.Nursery, size: int) -> None:
    """The client's FIN arrives as FIN, and the reply still comes back, whole."""
    reply = random.Random(size).randbytes(size)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            assert await receive_all(stream) == b"request"
            await stream.send_all(reply)

    listen, _ = await tunnel.connect(await serve(nursery, server))
    for _ in range(3):
        async with await connect(await listen.port()) as stream:
            await stream.send_all(b"request")
            await stream.send_eof()
            assert await receive_all(stream) == reply


async def test_server_half_closes_first(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    received = trio.Event()

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"that is all from me")
            await stream.send_eof()
            assert await receive_all(stream) == bytes(MIB)
            received.set()

    listen, _ = await tunnel.connect(await serve(nursery, server))
    async with await connect(await listen.port()) as stream:
        assert await receive_all(stream) == b"that is all from me"
        await stream.send_all(bytes(MIB))
        await stream.send_eof()
        await received.wait()


@also_sealed
async def test_write_then_close(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """1 MiB, then close at once: all of it arrives, each of 20 times, from either end."""
    results, results_of_server = trio.open_memory_channel[str](1)
    data = random.Random(1).randbytes(MIB)

    async def sink(stream: trio.SocketStream) -> None:
        async with stream:
            await results.send(sha256(await receive_all(stream)))

    listen, _ = await tunnel.connect(await serve(nursery, sink))
    for _ in range(20):
        async with await connect(await listen.port()) as stream:
            await stream.send_all(data)
        assert await results_of_server.receive() == sha256(data)


async def test_server_writes_then_closes(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    data = random.Random(2).randbytes(MIB)

    async def source(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(data)

    listen, _ = await tunnel.connect(await serve(nursery, source))
    for _ in range(20):
        async with await connect(await listen.port()) as stream:
            assert sha256(await receive_all(stream)) == sha256(data)


async def test_server_speaks_first(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"hello")
            await receive_all(stream)

    listen, _ = await tunnel.connect(await serve(nursery, server))
    async with await connect(await listen.port()) as stream:
        assert await receive_exactly(stream, 5) == b"hello"


async def test_two_forwards(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """Each local port leads to its own target."""

    async def say(word: bytes, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(word)

    targets = [await serve(nursery, functools.partial(say, word)) for word in (b"one", b"two")]
    listen, _ = await tunnel.connect(*targets)
    for port, word in zip(listen.ports(), (b"one", b"two"), strict=True):
        async with await connect(port) as stream:
            assert await receive_all(stream) == word


async def test_thousand_idle_streams(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """1,000 connections stay open, then each has an echo of its own."""
    listen, _ = await tunnel.connect(await serve(nursery, echo))
    port = await listen.port()
    streams: list[trio.SocketStream] = []
    at_once = trio.CapacityLimiter(100)

    async def greet(stream: trio.SocketStream, message: bytes) -> None:
        await stream.send_all(message)
        assert await receive_exactly(stream, len(message)) == message

    async def open_one() -> None:
        async with at_once:
            stream = await connect(port)
            streams.append(stream)
            await greet(stream, b"?")

    async with trio.open_nursery() as clients:
        for _ in range(1000):
            clients.start_soon(open_one)
    async with trio.open_nursery() as clients:
        for number, stream in enumerate(streams):
            clients.start_soon(greet, stream, f"stream {number}".encode())
    for stream in streams:
        await stream.aclose()


@also_sealed
async def test_short_requests(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """500 requests by 16 workers: each answered, and each dialled exactly once."""
    dials = 0

    async def server(stream: trio.SocketStream) -> None:
        nonlocal dials
        dials += 1
        async with stream:
            await echo(stream)

    listen, _ = await tunnel.connect(await serve(nursery, server))
    port = await listen.port()
    requests = iter(range(500))

    async def worker() -> None:
        for request in requests:
            await check_echo(port, f"request {request} ".encode() * 20)

    async with trio.open_nursery() as workers:
        for _ in range(16):
            workers.start_soon(worker)
    assert dials == 500


@pytest.mark.parametrize("first", ["listen", "dial"])
async def test_either_side_starts_first(tunnel: Tunnel, nursery: trio.Nursery, first: str) -> None:
    target = await serve(nursery, echo)
    if first == "listen":
        listen = await tunnel.listen(target)
        await listen.event("waiting")
        dial = await tunnel.dial()
    else:
        dial = await tunnel.dial()
        await dial.event("waiting")
        listen = await tunnel.listen(target)
    await dial.event("established")
    await listen.event("established")
    await check_echo(await listen.port())


async def test_files_are_private(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    await tunnel.connect(await serve(nursery, echo))
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (tunnel.directory, tunnel.mailbox("listen"), tunnel.mailbox("dial"))
    }
    assert modes == {Path(tunnel.directory).name: 0o700, "listen.mbx": 0o600, "dial.mbx": 0o600}


async def test_endless_stream_is_not_buffered_whole(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """256 MiB in one stream pass through processes that stay small."""
    length = 256 * MIB

    async def source(stream: trio.SocketStream) -> None:
        async with stream:
            await send_pattern(stream, "bulk", length)

    listen, dial = await tunnel.connect(await serve(nursery, source))
    before = {side: side.resident() for side in (listen, dial)}
    count = 0
    async with await connect(await listen.port()) as stream:
        async for data in stream:
            count += len(data)
    assert count == length
    for side, size in before.items():
        assert side.resident() - size < 64 * MIB, side.name
