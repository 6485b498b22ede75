"""An end without a terminal: forwards that come and go, and how it ends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio

from muxfs.core.wire import Code
from muxfs.endpoint.endpoint import RESERVED, Endpoint, EndpointConfig, open_endpoint
from muxfs.forwards.consent import LOCAL_PORTS, Policy
from muxfs.forwards.events import Overloaded, Refused
from muxfs.forwards.spec import Forward, Port, Target
from tests.endpoint.tunnel import MemoryTunnel
from tests.forwards.harness import CONFIG, Log, is_reset, pair


@asynccontextmanager
async def end(
    tunnel: MemoryTunnel, role: Literal["listen", "dial"], **options: object
) -> AsyncIterator[tuple[Endpoint, Log]]:
    """Run one end."""
    log = Log()
    config = EndpointConfig(role=role, slots=tunnel.slots(role), session=CONFIG, **options)
    async with open_endpoint(config, log) as endpoint:
        await endpoint.start()
        yield endpoint, log


async def echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the end of a test cuts it off
        async for data in stream:
            await stream.send_all(data)


@asynccontextmanager
async def echo_server() -> AsyncIterator[Target]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        port = listeners[0].socket.getsockname()[1]
        yield Target("localhost", port)
        nursery.cancel_scope.cancel()


LOCAL = Policy(LOCAL_PORTS)


async def test_a_forward_is_added_used_and_cancelled() -> None:
    tunnel = MemoryTunnel()
    async with (
        echo_server() as target,
        end(tunnel, "listen") as (listen, _),
        end(tunnel, "dial", policy=LOCAL),
    ):
        forward = await listen.add_forward(Forward(Port(0), target))
        assert listen.forwards == (forward,)
        number = forward.port.port
        async with await trio.open_tcp_stream("127.0.0.1", number) as client:
            await client.send_all(b"before")
            assert await client.receive_some() == b"before"
            await listen.cancel_forward(forward)
            assert listen.forwards == ()
            await client.send_all(b"after")
            assert await client.receive_some() == b"after"
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", number))


async def test_a_forward_may_be_cancelled_by_two_at_once() -> None:
    """Two clients of the control socket may ask for it."""
    async with end(MemoryTunnel(), "listen") as (listen, _):
        forward = await listen.add_forward(Forward(Port(0), Target("localhost", 1)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen.cancel_forward, forward)
            nursery.start_soon(listen.cancel_forward, forward)
        assert listen.forwards == ()


@pytest.mark.parametrize("role", ["listen", "dial"])
async def test_either_end_connects_to_targets_of_the_other(
    role: Literal["listen", "dial"],
) -> None:
    tunnel = MemoryTunnel()
    other: Literal["listen", "dial"] = "dial" if role == "listen" else "listen"
    async with (
        echo_server() as target,
        end(tunnel, role) as (endpoint, _),
        end(tunnel, other, policy=LOCAL),
    ):
        await endpoint.sessions.wait_can_open()
        async with endpoint.sessions.start_stream(str(target), "test") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"


async def test_connecting_without_a_session_is_refused_in_time() -> None:
    async with end(MemoryTunnel(), "listen", connect_timeout=0.1) as (listen, _):
        client, connection = pair()
        refused = await listen.join(connection, "localhost:1", "test", 0.1)
        assert isinstance(refused, Refused)
        assert refused.code is Code.TIMEOUT
        assert await is_reset(client)


async def test_a_taken_port_leaves_the_others_as_they_are() -> None:
    async with end(MemoryTunnel(), "listen") as (listen, _):
        first = await listen.add_forward(Forward(Port(0), Target("localhost", 1)))
        with pytest.raises(OSError, match="in use"):
            await listen.add_forward(Forward(Port(first.port.port), Target("localhost", 2)))
        assert listen.forwards == (first,)


async def test_connections_are_bounded_by_descriptors() -> None:
    tunnel = MemoryTunnel()
    async with end(tunnel, "listen", descriptors=RESERVED + 3) as (listen, log):
        forward = await listen.add_forward(Forward(Port(0), Target("localhost", 1)))
        room = 3 - len(forward.port.sockets)
        clients = [
            await trio.open_tcp_stream("127.0.0.1", forward.port.port) for _ in range(room + 1)
        ]
        overloaded = await log.wait(Overloaded)
        assert f"{room} are open" in overloaded.reason
        for client in clients:
            await client.aclose()


async def test_the_bodys_exception_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with end(MemoryTunnel(), "listen"):
            raise ZeroDivisionError
