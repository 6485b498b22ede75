"""trio's own checks of streams, and trio's own users of them."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme
from trio.testing import MockClock, check_half_closeable_stream, check_two_way_stream

from muxfs import MuxStream
from muxfs.core.stream import SEND_BUFFER
from muxfs.core.wire import DEFAULT_INITIAL_CREDIT
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import Tunnel, open_tunnel, read_all

Maker = Callable[[], Awaitable[tuple[MuxStream, MuxStream]]]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def clogged(tunnel: Tunnel) -> Maker:
    async def make() -> tuple[MuxStream, MuxStream]:
        ends = await tunnel.stream_pair()
        for stream in ends:  # as much as the far side's window and this side's buffer hold
            await stream.send_all(bytes(DEFAULT_INITIAL_CREDIT + SEND_BUFFER))
        return ends

    return make


async def test_trio_check_in_simulated_time(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    await check_half_closeable_stream(tunnel.stream_pair, clogged(tunnel))


@pytest.mark.parametrize("immediate", [False, True], ids=["polled", "spinning"])
async def test_trio_check_on_the_real_clock(immediate: bool) -> None:
    async with open_tunnel(MemoryFilesystem(immediate=immediate)) as tunnel:
        await check_half_closeable_stream(tunnel.stream_pair, clogged(tunnel))


async def test_trio_check_on_a_slow_filesystem(autojump_clock: MockClock) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.02, visibility=0.5)) as tunnel:
        await check_half_closeable_stream(tunnel.stream_pair, clogged(tunnel))


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """TLS of a client and of a server that it trusts."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("node17.example").configure_cert(server)
    return client, server


def wrap(
    ends: tuple[MuxStream, MuxStream], contexts: Contexts
) -> tuple[trio.SSLStream[MuxStream], trio.SSLStream[MuxStream]]:
    near, far = ends
    return (
        trio.SSLStream(near, contexts[0], server_hostname="node17.example"),
        trio.SSLStream(far, contexts[1], server_side=True),
    )


async def test_trio_check_through_tls(
    autojump_clock: MockClock, tunnel: Tunnel, contexts: Contexts
) -> None:
    async def make() -> tuple[trio.SSLStream[MuxStream], trio.SSLStream[MuxStream]]:
        near, far = wrap(await tunnel.stream_pair(), contexts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.do_handshake)
            nursery.start_soon(far.do_handshake)
        return near, far

    await check_two_way_stream(make, None)


async def test_much_data_through_tls(
    autojump_clock: MockClock, tunnel: Tunnel, contexts: Contexts
) -> None:
    near, far = wrap(await tunnel.stream_pair(), contexts)
    data = bytes(range(256)) * 8192
    received = bytearray()

    async def echo() -> None:
        async with far:
            async for part in far:
                await far.send_all(part)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        async with near:
            nursery.start_soon(near.send_all, data)
            while len(received) < len(data):
                received += await near.receive_some()

    assert received == data


async def test_serve_listeners(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    async def handle(stream: MuxStream) -> None:
        async for data in stream:
            await stream.send_all(data.upper())
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, [tunnel.listen.listen()])
        for number in range(20):
            stream = await tunnel.dial.open_stream()
            await stream.send_all(b"call %d" % number)
            await stream.send_eof()
            assert await read_all(stream) == b"CALL %d" % number
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_either_role_opens_and_the_acceptor_speaks_first(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            stream = await tunnel.dial.listen().accept()
            assert (stream.target, stream.originator) == ("db:5432", "ann@login1")
            await stream.send_all(b"welcome")

        nursery.start_soon(answer)
        stream = await tunnel.listen.open_stream("db:5432", "ann@login1")
        assert await stream.receive_some() == b"welcome"
