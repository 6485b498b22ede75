"""All kinds of forwards between two ends: proxies, listeners of the far side, Unix sockets."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from muxfs import StreamRefused
from muxfs.core.wire import Code
from muxfs.endpoint.endpoint import Endpoint
from muxfs.forwards import lending, proxy, remote
from muxfs.forwards.consent import FREE_LOOPBACK_PORTS, LOCAL_PORTS, Policy
from muxfs.forwards.events import Lent, Listening, NotListening, Refused, Returned
from muxfs.forwards.patterns import parse_allow, parse_allow_listen
from muxfs.forwards.remote import RemoteListener
from muxfs.forwards.spec import Kind, parse_forwards
from muxfs.forwards.targets import Forwarded
from muxfs.forwards.tcp import Connection
from tests.endpoint.tunnel import MemoryTunnel
from tests.forwards.harness import Log, receive_all, reset
from tests.ports import unused_port

from .test_endpoint import echo_server, end

LENDING = Policy(LOCAL_PORTS, FREE_LOOPBACK_PORTS)


@asynccontextmanager
async def both(
    listen: Policy | None = None, dial: Policy = LENDING
) -> AsyncIterator[tuple[Endpoint, Log, Endpoint, Log]]:
    tunnel = MemoryTunnel()
    async with (
        end(tunnel, "listen", policy=listen or Policy(command="muxfs listen")) as (near, near_log),
        end(tunnel, "dial", policy=dial) as (far, far_log),
    ):
        for endpoint in (near, far):  # datagrams do not wait for a session
            await endpoint.sessions.wait_established()
        yield near, near_log, far, far_log


async def reach(endpoint: Endpoint, text: str, kind: Kind) -> str:
    """Add a forward; return where its clients connect to."""
    (forward,) = parse_forwards(text, kind)
    active = await endpoint.add_forward(forward)
    if isinstance(active, RemoteListener):
        await active.answered.wait()
    return active.bound


async def connect(bound: str) -> trio.SocketStream:
    if bound.startswith("unix:"):
        return await trio.open_unix_socket(bound.removeprefix("unix:"))
    host, _, port = bound.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def check_echo(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await receive_all(stream) == b"hello"


async def receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more, data
        data += more
    return data


def socks5(host: str, port: int) -> bytes:
    name = host.encode()
    return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")


# Proxies


async def test_a_socks_client_is_told_the_far_address_and_served() -> None:
    async with echo_server() as target, both() as (near, _, _, _):
        stream = await connect(await reach(near, "0", Kind.DYNAMIC))
        await stream.send_all(b"\x05\x01\x00")
        assert await receive_exactly(stream, 2) == b"\x05\x00"
        await stream.send_all(socks5("localhost", target.port) + b"early ")
        answer = await receive_exactly(stream, 10)
        assert answer[:8] == b"\x05\x00\x00\x01\x7f\x00\x00\x01"
        assert int.from_bytes(answer[8:], "big")
        assert await receive_exactly(stream, 6) == b"early "
        await check_echo(stream)


@pytest.mark.parametrize(
    ("host", "reply"), [("localhost", 5), ("nowhere.invalid", 2), ("a b", 1), ("127.0.0.2", 2)]
)
async def test_socks_refusals(host: str, reply: int) -> None:
    async with both() as (near, log, _, _):
        stream = await connect(await reach(near, "0", Kind.DYNAMIC))
        await stream.send_all(b"\x05\x01\x00" + socks5(host, unused_port()) + b"early data")
        answer = await receive_all(stream)
        assert answer == b"\x05\x00" + bytes([5, reply, 0, 1]) + bytes(6)
        refused = await log.wait(Refused)
        if reply == 2:
            assert "muxfs dial --allow" in refused.reason
        await stream.aclose()


async def test_an_http_client_is_told_why() -> None:
    async with echo_server() as target, both() as (near, _, _, _):
        bound = await reach(near, "0", Kind.HTTP)
        stream = await connect(bound)
        await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        granted = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await receive_exactly(stream, len(granted)) == granted
        await check_echo(stream)
        stream = await connect(bound)
        await stream.send_all(b"CONNECT db:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await receive_all(stream)
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert answer.endswith(b"muxfs dial --allow db:1 would allow it\n")
        await stream.aclose()


async def test_a_client_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "GREETING_TIME", 0.1)
    async with (
        both() as (near, _, _, _),
        await connect(await reach(near, "0", Kind.DYNAMIC)) as stream,
    ):
        assert await receive_all(stream) == b""


async def test_a_client_that_leaves_in_its_greeting_harms_nobody() -> None:
    async with echo_server() as target, both() as (near, _, _, _):
        bound = await reach(near, "0", Kind.DYNAMIC)
        for said in (b"", b"\x05", b"\x05\x01\x00", b"\x05\x01\x00\x05\x01\x00\x03\x50"):
            stream = await connect(bound)
            await stream.send_all(said)
            reset(stream)
        stream = await connect(bound)
        await stream.send_all(b"\x04\x01" + target.port.to_bytes(2, "big") + b"\x7f\0\0\1\0")
        assert await receive_exactly(stream, 8) == b"\x00\x5a" + bytes(6)
        await check_echo(stream)


@asynccontextmanager
async def udp_echo() -> AsyncIterator[int]:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            data, sender = await sock.recvfrom(65535)
            await sock.sendto(b"%d:" % sock.getsockname()[1] + data, sender)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()
    sock.close()


async def until_free(relay: tuple[str, int]) -> None:
    """Wait until nobody has the UDP port any more."""
    with trio.fail_after(60):
        while True:
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(relay)
            except OSError:
                await trio.sleep(0.01)
            else:
                return


async def test_udp_associate_with_two_targets_on_one_association() -> None:
    async with udp_echo() as one, udp_echo() as other, both() as (near, log, _, _):
        control = await connect(await reach(near, "0", Kind.DYNAMIC))
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        answer = await receive_exactly(control, 12)
        assert answer[:10] == b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01"
        relay = ("127.0.0.1", int.from_bytes(answer[10:], "big"))
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in (one, other, one):
                for header in (
                    b"\0\0\0\x01\x7f\0\0\1" + port.to_bytes(2, "big"),
                    b"\0\0\0\x03\x09localhost" + port.to_bytes(2, "big"),
                ):
                    await sock.sendto(header[:2] + b"\1" + header[3:] + b"a fragment", relay)
                    await sock.sendto(header + b"hello", relay)
                    data, sender = await sock.recvfrom(100)
                    assert sender == relay
                    assert data == header + b"%d:hello" % port
            # the association lives as long as the connection
            await control.aclose()
            await until_free(relay)
        assert not [event for event in log.events if isinstance(event, Refused)]


async def test_a_client_that_is_killed_ends_its_association_and_nothing_else() -> None:
    async with both() as (near, _, _, _):
        bound = await reach(near, "0", Kind.DYNAMIC)
        control = await connect(bound)
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        answer = await receive_exactly(control, 12)
        reset(control)
        await until_free(("127.0.0.1", int.from_bytes(answer[10:], "big")))
        async with await connect(bound) as another:
            await another.send_all(b"\x05\x01\x00")
            assert await receive_exactly(another, 2) == b"\x05\x00"


async def test_a_flood_on_the_connection_of_an_association_lets_other_tasks_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn = 0
    turns: list[int] = []

    async def receive(_self: Connection, _limit: int) -> bytes:
        turns.append(turn)
        return b"x" if len(turns) < 1000 else b""

    async with both() as (near, _, _, _):
        control = await connect(await reach(near, "0", Kind.DYNAMIC))
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        await receive_exactly(control, 12)
        monkeypatch.setattr(Connection, "receive", receive)
        await control.send_all(b"x")
        while len(turns) < 1000:
            turn += 1
            await trio.lowlevel.checkpoint()
        assert len(set(turns)) >= 400  # each has its turn, in no certain order
        assert await receive_all(control) == b""
        await control.aclose()


async def test_udp_associate_is_not_for_unix_sockets(tmp_path: Path) -> None:
    async with both() as (near, _, _, _):
        control = await connect(await reach(near, str(tmp_path / "s"), Kind.DYNAMIC))
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        assert await receive_all(control) == b"\x05\x00\x05\x07\x00\x01" + bytes(6)
        await control.aclose()


# Listeners of the far side


async def test_a_remote_forward_from_either_end() -> None:
    listen = Policy(allow_listen=(parse_allow_listen("*"),))
    async with echo_server() as target, both(listen) as (near, near_log, far, far_log):
        for asker, its_log, lender in ((near, near_log, far_log), (far, far_log, near_log)):
            bound = await reach(asker, f"0:{target}", Kind.REMOTE)
            assert await its_log.wait(Listening) == Listening(f"-R 0:{target}", bound)
            assert await lender.wait(Lent) == Lent(bound)
            await check_echo(await connect(bound))


async def test_a_remote_forward_needs_no_consent_to_dial_its_own_target() -> None:
    """The listen end dials nothing that the far side asks for, but what its own -R says."""
    async with echo_server() as target, both() as (near, _, far, _):
        bound = await reach(near, f"0:{target}", Kind.REMOTE)
        await check_echo(await connect(bound))
        refused = [str(target), str(Forwarded(1, target)), "forwarded:2:", "forwarded:0:"]
        codes = []
        for text in refused:
            stream = far.sessions.start_stream(text, "evil")
            try:
                await stream.wait_accepted()
                codes.append(None)
            except StreamRefused as error:
                codes.append(error.code)
        # a target in the answer to a plain request is ignored: the own one is dialled
        assert codes == [Code.PROHIBITED, None, Code.PROHIBITED, Code.PROHIBITED]


async def test_a_plain_answer_to_a_socks_request_is_refused() -> None:
    async with both() as (near, _, far, _):
        await reach(near, "0", Kind.REMOTE)
        stream = far.sessions.start_stream("forwarded:1:", "evil")
        with pytest.raises(StreamRefused, match="listener 1 is one for SOCKS"):
            await stream.wait_accepted()


@pytest.mark.parametrize(
    ("allow", "reply"), [((), 0), (("localhost:1",), 2), (("localhost:*",), 0)]
)
async def test_a_socks_server_on_the_far_side(allow: tuple[str, ...], reply: int) -> None:
    """It reaches anything from here, as with ssh, unless --allow says what."""
    policy = Policy(tuple(map(parse_allow, allow)), allow_said=bool(allow))
    async with echo_server() as target, both(policy) as (near, _, _, _):
        stream = await connect(await reach(near, "0", Kind.REMOTE))
        await stream.send_all(b"\x05\x01\x00" + socks5("localhost", target.port))
        answer = await receive_exactly(stream, 12)
        assert answer[:4] == bytes([5, 0, 5, reply])
        if reply:
            await stream.aclose()
        else:
            await check_echo(stream)


async def test_datagrams_through_a_socks_server_on_the_far_side() -> None:
    async with udp_echo() as port, both() as (near, _, _, _):
        control = await connect(await reach(near, "0", Kind.REMOTE))
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        answer = await receive_exactly(control, 12)
        header = b"\0\0\0\x01\x7f\0\0\1" + port.to_bytes(2, "big")
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.sendto(header + b"hi", ("127.0.0.1", int.from_bytes(answer[10:], "big")))
            assert (await sock.recvfrom(100))[0] == header + b"%d:hi" % port
        await control.aclose()


async def test_a_refused_listener_is_told_and_not_asked_again() -> None:
    async with both() as (near, _, far, log):
        assert await reach(far, "18001:localhost:1", Kind.REMOTE) == ""
        assert await log.wait(NotListening) == NotListening(
            "-R 18001:localhost:1",
            Code.PROHIBITED,
            "18001: not allowed; muxfs listen --allow-listen 18001 would allow it",
        )
        assert near.sessions.by_number[0].stats().opened == 1


async def test_a_taken_port_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LEAST_PAUSE", 0.05)
    async with echo_server() as target, both() as (near, log, _, _):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            await reach(near, f"{port}:{target}", Kind.REMOTE)
            refused = await log.wait(NotListening)
            assert refused.code is Code.LIMIT
            assert refused.reason == f"EADDRINUSE {port}: something else listens there"
            await trio.sleep(0.3)
        await log.wait(Listening)
        assert len([e for e in log.events if isinstance(e, NotListening)]) == 1
        await check_echo(await connect(f"127.0.0.1:{port}"))


async def test_a_remote_forward_comes_back_with_the_next_session() -> None:
    tunnel = MemoryTunnel()
    async with echo_server() as target, end(tunnel, "listen") as (near, log):
        (forward,) = parse_forwards(f"{unused_port()}:{target}", Kind.REMOTE)
        active = await near.add_forward(forward)
        for _ in range(2):
            log.events.clear()
            async with end(tunnel, "dial", policy=LENDING):
                await log.wait(Listening)
                await check_echo(await connect(active.bound))


async def test_cancelling_a_remote_forward_closes_the_port_and_keeps_connections() -> None:
    async with echo_server() as target, both() as (near, _, _, far_log):
        (forward,) = parse_forwards(f"0:{target}", Kind.REMOTE)
        active = await near.add_forward(forward)
        assert isinstance(active, RemoteListener)
        await active.answered.wait()
        bound = active.bound
        client = await connect(bound)
        await client.send_all(b"before")
        assert await receive_exactly(client, 6) == b"before"
        await near.cancel_forward(active)
        assert await far_log.wait(Returned) == Returned(bound)
        with pytest.raises(OSError, match=r"refused|failed"):
            await connect(bound)
        await check_echo(client)


async def test_listeners_of_a_hostile_far_side_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lending, "MAX_LISTENERS", 3)
    async with both() as (near, _, _, log):
        reasons = []
        for number in range(5):
            stream = near.sessions.start_stream(f"listen:{number}:plain:0", "evil")
            try:
                await stream.wait_accepted()
            except StreamRefused as error:
                reasons.append((error.code, error.reason))
        assert reasons == [(Code.LIMIT, "0: you have 3 listeners here")] * 2
        assert len([e for e in log.events if isinstance(e, Lent)]) == 3


async def test_an_exposed_listener_needs_any_user_too() -> None:
    policy = Policy(allow_listen=(parse_allow_listen("*:*"),))
    async with both(dial=policy) as (near, log, _, _):
        assert await reach(near, "*:0:localhost:1", Kind.REMOTE) == ""
        refused = await log.wait(NotListening)
        assert refused.code is Code.PROHIBITED
        assert "--any-user lets everybody in" in refused.reason


# Unix sockets


async def test_unix_sockets_at_both_ends(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    policy = Policy((parse_allow(str(there)),))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(there))
        server.listen()
        server.setblocking(False)
        async with both(dial=policy) as (near, log, _, _):
            bound = await reach(near, f"{here}:{there}", Kind.LOCAL)
            assert bound == f"unix:{here}"
            assert stat.S_IMODE(os.lstat(here).st_mode) == 0o600
            client = await connect(bound)
            await trio.lowlevel.wait_readable(server)
            accepted = trio.SocketStream(trio.socket.from_stdlib_socket(server.accept()[0]))
            # each direction ends by itself
            await client.send_all(b"up")
            await client.send_eof()
            assert await receive_all(accepted) == b"up"
            await accepted.send_all(b"down")
            await accepted.send_eof()
            assert await receive_all(client) == b"down"
            await client.aclose()
            await accepted.aclose()
            assert not [event for event in log.events if isinstance(event, Refused)]
    assert not here.exists()
