"""Datagrams in a stream: framing, associations, and what is dropped."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from muxfs import Session
from muxfs.core.wire import Code
from muxfs.forwards import datagrams, incoming
from muxfs.forwards.admission import Admission
from muxfs.forwards.associations import MAX_ASSOCIATIONS
from muxfs.forwards.consent import LOCAL_PORTS, Policy
from muxfs.forwards.datagram_listener import DatagramListener
from muxfs.forwards.datagrams import Unpacker, pack
from muxfs.forwards.events import Ended, Opened, Refused
from muxfs.forwards.incoming import serve_streams
from muxfs.forwards.ports import open_port
from muxfs.forwards.spec import Forward, Kind, Port, Target
from muxfs.testing import MemoryFilesystem
from tests.ports import unused_port

from .harness import Log, carrier, end, sessions


@given(st.lists(st.binary(max_size=300)), st.data())
def test_datagrams_are_kept_whole(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(pack, sent))
    unpacker, received = Unpacker(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += unpacker.receive(stream[:size])
        stream = stream[size:]
    assert received == sent
    assert not unpacker._buffer


@given(st.lists(st.binary(max_size=100)))
def test_hostile_bytes_are_datagrams_and_bounded(pieces: list[bytes]) -> None:
    unpacker = Unpacker()
    for piece in pieces:
        unpacker.receive(piece)
        assert len(unpacker._buffer) <= 2 + datagrams.MAX_DATAGRAM


def client(port: int, where: tuple[str, int] = ("127.0.0.1", 0)) -> trio.socket.SocketType:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(where)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Answer each datagram with itself, but `twice` with two."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            data, sender = await sock.recvfrom(65535)
            for _ in range(2 if data == b"twice" else 1):
                await sock.sendto(data, sender)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()
    sock.close()


@asynccontextmanager
async def forwarding(
    target: int, policy: Policy | None = None, admission: Admission | None = None
) -> AsyncIterator[tuple[int, Log, Log]]:
    """Forward a UDP port; yields it, and the logs of both sides."""
    forward = Forward(Port(0), Target("localhost", target), Kind.UDP)
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        near, near_log = carrier(listen)
        far, far_log = carrier(dial)
        port = await open_port(forward)
        nursery.start_soon(DatagramListener(near, port, admission or Admission()).run)
        nursery.start_soon(
            lambda: serve_streams(dial, far, policy or Policy(LOCAL_PORTS), connect_timeout=5)
        )
        yield port.port, near_log, far_log
        nursery.cancel_scope.cancel()


async def test_datagrams_of_all_sizes_come_back_whole() -> None:
    async with echo_server() as server, forwarding(server) as (port, near, far):
        with client(port) as sock:
            for size in (1, 0, 512, 1472, 9000, 60000, 65507):
                await sock.send(bytes(size))
                assert len(await sock.recv(65535)) == size
            await sock.send(b"twice")
            assert await sock.recv(100) == await sock.recv(100) == b"twice"
            where = f"127.0.0.1:{sock.getsockname()[1]}"
        assert near.events == [Opened(where, f"udp:localhost:{server}")]
        assert far.events == near.events


async def test_each_client_has_its_own_association() -> None:
    async with echo_server() as server, forwarding(server) as (port, near, _):
        clients = [client(port) for _ in range(20)]
        for number, sock in enumerate(clients):
            await sock.send(b"%d" % number)
        for number, sock in enumerate(clients):
            assert await sock.recv(100) == b"%d" % number
            sock.close()
        assert len(near.events) == 20


async def test_an_idle_association_ends_at_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    async with echo_server() as server, forwarding(server) as (port, near, far):
        with client(port) as sock:
            await sock.send(b"hello")
            assert await sock.recv(100) == b"hello"
            with monkeypatch.context() as patched:
                patched.setattr(datagrams, "IDLE_TIME", 0.2)  # from the next datagram on
                await sock.send(b"last words")
                for log in (near, far):
                    ended = await log.wait(Ended)
                    assert ended.originator == f"127.0.0.1:{sock.getsockname()[1]}"
                    assert ended.target == f"udp:localhost:{server}"
                    assert ended.clean
                    assert (ended.sent, ended.received) in {(15, 15), (15, 5), (5, 15)}
            await sock.send(b"again")
            while await sock.recv(100) != b"again":
                pass  # the answer to the one before may still have come


async def test_a_new_client_takes_the_place_of_the_idlest() -> None:
    async with echo_server() as server, forwarding(server) as (port, near, _):
        clients = [client(port) for _ in range(MAX_ASSOCIATIONS + 4)]
        for sock in clients:
            await sock.send(b"x")
            assert await sock.recv(100) == b"x"
        ended = await near.wait(Ended)
        assert ended.originator == f"127.0.0.1:{clients[0].getsockname()[1]}"
        assert len([e for e in near.events if isinstance(e, Ended)]) == 4
        for sock in clients:
            sock.close()


async def test_a_refused_client_is_told_once_and_dropped() -> None:
    async with forwarding(1, Policy()) as (port, near, far):
        with client(port) as sock:
            for _ in range(5):
                await sock.send(b"x")
                await trio.sleep(0.05)
        refused = await near.wait(Refused)
        assert refused.code is Code.PROHIBITED
        assert refused.reason.endswith("muxfs dial --allow localhost:1 would allow it")
        assert len([e for e in near.events if isinstance(e, Refused)]) == 1
        assert len(far.events) == 1


async def test_an_unreachable_port_does_not_end_the_association() -> None:
    server = unused_port(socket.SOCK_DGRAM)
    async with forwarding(server) as (port, _, far):
        with client(port) as sock:
            for _ in range(3):
                await sock.send(b"x")  # answered by ICMP, which the relay reads as an error
                await trio.sleep(0.02)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
                late.bind(("127.0.0.1", server))
                late.setblocking(False)
                await sock.send(b"now")
                got = b"x"
                with trio.fail_after(60):
                    while got == b"x":  # one of them may be late as well
                        await trio.lowlevel.wait_readable(late)
                        got = late.recv(100)
                assert got == b"now"
        assert not [e for e in far.events if isinstance(e, Ended)]


async def test_an_error_of_an_earlier_datagram_costs_no_later_one() -> None:
    where = "127.0.0.1", unused_port(socket.SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(where)
        sock.send(b"into the void")
        await trio.lowlevel.wait_readable(sock)  # the error
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(where)
            datagrams.send_or_drop(sock, b"now")
            assert back.recv(10) == b"now"


async def test_without_a_session_datagrams_are_dropped_and_nothing_waits() -> None:
    fs = MemoryFilesystem()
    forward = Forward(Port(0), Target("localhost", 1), Kind.UDP)
    async with end(fs, "listen") as session, trio.open_nursery() as nursery:
        near, log = carrier(session)
        port = await open_port(forward)
        nursery.start_soon(DatagramListener(near, port).run)
        with client(port.port) as sock:
            for _ in range(100):
                await sock.send(b"x")
            await trio.sleep(0.1)
        assert log.events == []
        nursery.cancel_scope.cancel()


async def test_a_flood_is_dropped_not_kept() -> None:
    """Nobody reads the far side's stream: what finds no room is dropped, the rest waits."""
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        near, _ = carrier(listen)
        port = await open_port(Forward(Port(0), Target("localhost", 1), Kind.UDP))
        nursery.start_soon(DatagramListener(near, port).run)
        with client(port.port) as sock:
            await sock.send(b"first")
            stream = await dial.listen().accept()
            for _ in range(200):
                for _ in range(10):
                    await sock.send(bytes(10000))
                await trio.lowlevel.checkpoint()
            assert listen.engine.unsent < 8 << 20
            got = datagrams.Unpacker()
            sizes: list[int] = []
            while not sizes:
                sizes += map(len, got.receive(await stream.receive_some(1 << 16)))
            with trio.move_on_after(1):
                while True:
                    sizes += map(len, got.receive(await stream.receive_some(1 << 16)))
            assert sizes[0] == 5
            assert set(sizes[1:]) == {10000}
        nursery.cancel_scope.cancel()


async def test_the_far_side_has_a_bound_of_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_DATAGRAM_STREAMS", 2)

    async def ask(session: Session) -> str:
        stream = session.start_stream("udp:localhost:9", "x")
        try:
            await stream.wait_accepted()
        except OSError as error:
            return str(error.strerror)
        return ""

    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        far, _ = carrier(dial)
        nursery.start_soon(lambda: serve_streams(dial, far, Policy(LOCAL_PORTS), connect_timeout=5))
        assert [await ask(listen) for _ in range(3)] == [
            "",
            "",
            "udp:localhost:9: 2 associations are in use",
        ]
        nursery.cancel_scope.cancel()


async def test_datagrams_of_other_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "judge", lambda _self, _uid: "somebody else")
    async with echo_server() as server, forwarding(server) as (port, near, far):
        with client(port) as sock:
            await sock.send(b"x")
            refused = await near.wait(Refused)
            assert (refused.code, refused.reason) == (Code.PROHIBITED, "somebody else")
        assert far.events == []


async def test_a_port_that_another_user_has_now_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once its client has closed it, any user may bind it and send as that client."""
    async with echo_server() as server, forwarding(server) as (port, near, far):
        where = "127.0.0.1", unused_port(socket.SOCK_DGRAM)
        with client(port, where) as sock:
            await sock.send(b"mine")
            assert await sock.recv(100) == b"mine"
        monkeypatch.setattr(Admission, "judge", lambda _self, _uid: "somebody else")
        with client(port, where) as other:
            await other.send(b"of another")
            refused = await near.wait(Refused)
            assert (refused.code, refused.reason) == (Code.PROHIBITED, "somebody else")
        ended = await far.wait(Ended)
        assert (ended.sent, ended.received) == (4, 4)


async def test_what_comes_for_a_port_that_another_user_has_now_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for a client's port to be free must not get its answers."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        async with forwarding(server.getsockname()[1]) as (port, near, _):
            where = "127.0.0.1", unused_port(socket.SOCK_DGRAM)
            with client(port, where) as sock:
                await sock.send(b"subscribe")
                _, relay = await server.recvfrom(100)
                await server.sendto(b"news", relay)
                assert await sock.recv(100) == b"news"
            monkeypatch.setattr(Admission, "judge", lambda _self, _uid: "somebody else")
            with client(port, where) as other:
                await server.sendto(b"secret", relay)
                ended = await near.wait(Ended)
                assert (ended.sent, ended.received, ended.clean) == (9, 4, True)
                arrived, _, _ = select.select([other], [], [], 0)
                assert not arrived
        assert not [event for event in near.events if isinstance(event, Refused)]


async def test_a_flood_of_other_users_takes_nobodys_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refusal(
        _self: Admission, _sock: socket.socket, sender: tuple[str, int]
    ) -> str | None:
        return None if sender == mine else "somebody else"

    monkeypatch.setattr(Admission, "refusal_of_datagrams", refusal)
    async with echo_server() as server, forwarding(server) as (port, near, _):
        with client(port) as sock, contextlib.ExitStack() as stack:
            mine = sock.getsockname()
            await sock.send(b"x")
            assert await sock.recv(100) == b"x"
            for number in range(1, MAX_ASSOCIATIONS + 4):
                await stack.enter_context(client(port)).send(b"evil")
                while len(near.events) <= number:
                    await near.news()
            await sock.send(b"y")
            assert await sock.recv(100) == b"y"
        assert not [event for event in near.events if isinstance(event, Ended)]


async def test_a_flood_of_the_far_side_lets_other_tasks_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[int] = []
    monkeypatch.setattr(datagrams, "send_or_drop", lambda *_: turns.append(turn))
    turn = 0
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        far, _ = carrier(dial)
        nursery.start_soon(lambda: serve_streams(dial, far, Policy(LOCAL_PORTS), connect_timeout=5))
        stream = listen.start_stream("udp:localhost:9", "x")
        await stream.send_all(pack(b"") * 20_000)
        while len(turns) < 20_000:
            turn += 1
            await trio.lowlevel.checkpoint()
        assert max(Counter(turns).values()) <= 2 * datagrams.BURST
        nursery.cancel_scope.cancel()
