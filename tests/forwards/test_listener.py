"""Accepting clients, holding them, and turning them away."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from muxfs import Session
from muxfs.core.wire import Code
from muxfs.forwards import carrier as carrier_module
from muxfs.forwards import listener as module
from muxfs.forwards import owner
from muxfs.forwards.admission import Admission, ExposedAddressError
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Overloaded, Refused
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import OpenPort, open_port
from muxfs.forwards.spec import Forward, Port, Target, parse_forwards
from muxfs.testing import MemoryFilesystem

from .harness import Log, carrier, end, is_reset, receive_all, send_for_ever, sessions

FORWARD = Forward(Port(0), Target("localhost", 1))


async def connect(port: OpenPort) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port.port)


async def test_the_loopback_is_the_default() -> None:
    port = await open_port(FORWARD)
    assert port.addresses == ("127.0.0.1", "::1")
    numbers = {sock.getsockname()[1] for sock in port.sockets}
    assert numbers == {port.port}
    await port.aclose()


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("*:0:a:1", ("0.0.0.0", "::")),
        ("localhost:0:a:1", ("127.0.0.1", "::1")),
        ("LocalHost.:0:a:1", ("127.0.0.1", "::1")),
        ("127.0.0.1:0:a:1", ("127.0.0.1",)),
        ("[::1]:0:a:1", ("::1",)),
    ],
)
async def test_bind_addresses(text: str, addresses: tuple[str, ...]) -> None:
    (forward,) = parse_forwards(text)
    port = await open_port(forward, Admission(any_user=True))
    assert port.addresses == addresses
    await port.aclose()


async def test_a_port_in_use() -> None:
    for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.create_server((address, 0), family=family) as taken:
            number = taken.getsockname()[1]
            with pytest.raises(OSError, match="in use") as caught:
                await open_port(Forward(Port(number), Target("localhost", 1)))
            assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_host() -> None:
    forward = Forward(Port(0, "192.0.2.1"), Target("localhost", 1))
    with pytest.raises(OSError, match="assign") as caught:
        await open_port(forward, Admission(any_user=True))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("text", ["*:0:a:1", "192.0.2.1:0:a:1", "[::]:0:a:1"])
async def test_other_hosts_are_let_in_only_if_asked_for(text: str) -> None:
    (forward,) = parse_forwards(text)
    with pytest.raises(ExposedAddressError, match=r"other hosts can connect to .*--any-user"):
        await open_port(forward)


@asynccontextmanager
async def listening(
    session: Session, connect_timeout: float = 30
) -> AsyncIterator[tuple[OpenPort, Log, Carrier]]:
    its_carrier, log = carrier(session)
    port = await open_port(FORWARD)
    async with trio.open_nursery() as nursery:
        listener = ForwardListener(its_carrier, port, connect_timeout=connect_timeout)
        nursery.start_soon(listener.run)
        yield port, log, its_carrier
        nursery.cancel_scope.cancel()


async def test_a_client_is_held_until_there_is_a_session() -> None:
    fs = MemoryFilesystem()
    async with end(fs, "listen") as session, listening(session) as (port, _, _):
        client = await connect(port)
        await client.send_all(b"early")
        await trio.sleep(0.05)
        async with client, end(fs, "dial") as dial:
            stream = await dial.listen().accept()
            assert stream.target == "localhost:1"
            assert stream.originator.startswith("127.0.0.1:")
            assert await stream.receive_some() == b"early"
            await stream.send_all(b"answer")
            assert await client.receive_some() == b"answer"


async def test_a_client_without_a_session_is_reset_in_time() -> None:
    fs = MemoryFilesystem()
    async with end(fs, "listen") as session, listening(session, 0.1) as (port, log, _):
        assert await is_reset(await connect(port))
        refused = await log.wait(Refused)
        assert refused.code is Code.TIMEOUT
        assert refused.reason == "no session with the other side within 0.1 s"


async def test_too_many_waiting_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier_module, "MAX_HELD", 3)
    fs = MemoryFilesystem()
    async with end(fs, "listen") as session, listening(session) as (port, log, _):
        clients = [await connect(port) for _ in range(4)]
        assert await is_reset(clients[3])
        assert (await log.wait(Refused)).code is Code.LIMIT
        assert len(log.events) == 1
        for client in clients:
            await client.aclose()


@pytest.mark.parametrize(
    ("uid", "words"),
    [(os.geteuid() + 1, "of this host is not its user"), (None, "nobody can tell which user")],
)
async def test_a_client_of_another_user(
    uid: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def of_tcp(_connection: socket.socket) -> int | None:
        return uid

    monkeypatch.setattr(owner, "of_tcp", of_tcp)
    async with sessions() as (listen, _), listening(listen) as (port, log, _):
        assert await is_reset(await connect(port))
        refused = await log.wait(Refused)
        assert refused.code is Code.PROHIBITED
        assert words in refused.reason
        assert "--any-user" in refused.reason
        assert listen.stats().opened == 0


async def test_a_refused_client_is_reset_and_the_reason_told() -> None:
    async with sessions() as (listen, dial), listening(listen) as (port, log, _):
        client = await connect(port)
        stream = await dial.listen(auto_accept=False).accept()
        await stream.refuse(Code.REFUSED, "ECONNREFUSED \x1b[31mdb")
        assert await is_reset(client)
        refused = await log.wait(Refused)
        assert refused.code is Code.REFUSED
        assert refused.reason == "ECONNREFUSED \\x1b[31mdb"
        assert refused.target == "localhost:1"


async def test_more_clients_than_unanswered_streams_are_allowed() -> None:
    """256 streams may be unanswered at once; the other clients wait their turn."""
    count = 300
    async with sessions() as (listen, dial), listening(listen) as (port, log, _):
        clients = [await connect(port) for _ in range(count)]
        await trio.sleep(0.2)
        listener = dial.listen(auto_accept=False)
        for _ in range(count):
            stream = await listener.accept()
            await stream.accept()
            await stream.send_all(b"!")
        for client in clients:
            assert await client.receive_some() == b"!"
            await client.aclose()
        assert not [event for event in log.events if isinstance(event, Refused)]


class Exhausted(socket.socket):
    """A listening socket of a process that has used up its descriptors for a while."""

    failures = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            Exhausted.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_accepting_goes_on_when_descriptors_were_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OVERLOAD_NAP", 0.01)
    monkeypatch.setattr(Exhausted, "failures", 3)
    plain = socket.create_server(("127.0.0.1", 0))
    sock = Exhausted(fileno=plain.detach())
    sock.setblocking(False)
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        its_carrier, log = carrier(listen)
        port = OpenPort(FORWARD, (sock,))
        nursery.start_soon(ForwardListener(its_carrier, port, connect_timeout=5).run)
        async with await connect(port) as client:
            stream = await dial.listen().accept()
            await stream.send_all(b"served")
            assert await client.receive_some() == b"served"
        assert [e for e in log.events if isinstance(e, Overloaded)] == [
            Overloaded("cannot accept more connections: Too many open files")
        ]
        nursery.cancel_scope.cancel()


async def test_a_stopped_listener_leaves_its_port_and_keeps_its_connections() -> None:
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        its_carrier, _ = carrier(listen)
        port = await open_port(FORWARD)
        listener = ForwardListener(its_carrier, port, connect_timeout=5)
        nursery.start_soon(listener.run)
        async with await connect(port) as client:
            stream = await dial.listen().accept()
            address = port.sockets[0].getsockname()
            await listener.stop()
            with socket.create_server(address):
                pass
            await stream.send_all(b"still here")
            assert await client.receive_some() == b"still here"
            await stream.aclose()
            await receive_all(client)
        # and once the last one has ended, so has the listener


async def test_the_end_of_the_session_resets_also_a_client_that_does_not_read() -> None:
    fs = MemoryFilesystem()
    async with (
        end(fs, "listen") as session,
        listening(session) as (port, _, its_carrier),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(its_carrier.load.watch, session, session.changes())
        client = await connect(port)
        async with end(fs, "dial") as dial:
            stream = await dial.listen().accept()
            with trio.move_on_after(0.5):
                await send_for_ever(stream, 100_000)
        # the kernel's buffers are full; a reset throws them away
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await send_for_ever(client)
        await client.aclose()
        # and the next session carries the next client
        async with end(fs, "dial") as dial, await connect(port) as another:
            stream = await dial.listen().accept()
            await stream.send_all(b"again")
            assert await another.receive_some() == b"again"
        nursery.cancel_scope.cancel()
