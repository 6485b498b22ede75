"""What is dialled, and how failures are told."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from muxfs import Session, StreamRefused
from muxfs.core.wire import Code
from muxfs.forwards import dialer, incoming
from muxfs.forwards.consent import EVERYTHING, LOCAL_PORTS, Policy, Refusal
from muxfs.forwards.dialer import dial, dial_loopback, explain
from muxfs.forwards.events import Ended, Opened, Refused
from muxfs.forwards.incoming import serve_streams
from muxfs.forwards.patterns import exactly
from muxfs.forwards.ports import open_port
from muxfs.forwards.spec import Forward, Port, Target, UnixPath
from muxfs.forwards.tcp import Connection
from tests.ports import unused_port

from .harness import Log, carrier, pair, sessions

LOCAL = Policy(LOCAL_PORTS)
ANYTHING = Policy(EVERYTHING)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ECONNREFUSED, Code.REFUSED, "ECONNREFUSED db:1: nothing is listening there"),
        (errno.EHOSTUNREACH, Code.UNREACHABLE, "EHOSTUNREACH db:1: no route to that host"),
        (errno.ETIMEDOUT, Code.TIMEOUT, "ETIMEDOUT db:1: no answer"),
        (errno.EMFILE, Code.LIMIT, "EMFILE db:1: this process has too many open files"),
        (errno.EIO, Code.INTERNAL, "EIO db:1: Input/output error"),
    ],
)
def test_errors_in_words(number: int, code: Code, words: str) -> None:
    refusal = explain(Target("db", 1), OSError(number, os.strerror(number)))
    assert refusal.code is code
    assert refusal.reason.startswith(words)


def test_a_host_without_that_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the far side asks for: it must end nothing but its own stream."""

    def no_such_family(*_: object) -> NoReturn:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", no_such_family)
    assert dial_loopback(Target("::1", 1), LOCAL) is None


def test_an_error_without_a_number() -> None:
    assert explain(Target("db", 1), OSError("strange")).code is Code.INTERNAL


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "☃.example", "-ü"])
async def test_names_that_no_resolver_takes(host: str) -> None:
    """They fail before any resolver is asked, in another way than unknown names do."""
    assert await dial(Target(host, 1), ANYTHING, 5) == Refusal(
        Code.RESOLVE, f"{host}:1: this name is unknown (it is not a valid name)"
    )
    with pytest.raises(socket.gaierror):
        await open_port(Forward(Port(0, host)))


async def test_dial_of_a_closed_port() -> None:
    port = unused_port()
    assert await dial(Target("localhost", port), LOCAL, 5) == Refusal(
        Code.REFUSED, f"ECONNREFUSED localhost:{port}: nothing is listening there"
    )


async def test_dial_of_localhost_tries_ipv6_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        found = await dial(Target("localhost", server.getsockname()[1]), LOCAL, 5)
        assert isinstance(found, Connection)
        assert found.peer.startswith("[::1]:")
        found.reset()


async def test_dial_that_meets_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trio.socket.socket

    def bound(family: int, kind: int) -> trio.socket.SocketType:
        sock = plain(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock._sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        return sock

    port = unused_port()
    monkeypatch.setattr(trio.socket, "socket", bound)
    refusal = await dial(Target("localhost", port), LOCAL, 5)
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.REFUSED


class Resolver(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host: object, *_: object, **__: object) -> list[object]:
        if host == b"slow.example":
            await trio.sleep_forever()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise AssertionError("nothing asks for the name of an address")


async def test_names_that_do_not_resolve() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    assert await dial(Target("no.example", 1), ANYTHING, 5) == Refusal(
        Code.RESOLVE, "no.example:1: this name is unknown (Name or service not known)"
    )
    assert await dial(Target("slow.example", 1), ANYTHING, 0.05) == Refusal(
        Code.TIMEOUT, "ETIMEDOUT slow.example:1: no answer within 0.05 s"
    )


@pytest.mark.usefixtures("no_threads")
async def test_without_a_thread_one_target_is_refused_and_nothing_else_ends(tmp_path: Path) -> None:
    for target in (Target("name.example", 1), UnixPath(str(tmp_path / "socket"))):
        refusal = await dial(target, Policy((exactly(target),)), 5)
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.LIMIT
        assert "no more threads" in refusal.reason


@asynccontextmanager
async def dialling(policy: Policy = LOCAL) -> AsyncIterator[tuple[Session, Log]]:
    """Serve the dial side; yields the listen side's session and the dial side's log."""
    async with sessions() as (listen, dialler), trio.open_nursery() as nursery:
        its_carrier, log = carrier(dialler)
        nursery.start_soon(lambda: serve_streams(dialler, its_carrier, policy, connect_timeout=5))
        yield listen, log
        nursery.cancel_scope.cancel()


async def test_a_stream_reaches_its_target() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with dialling() as (session, log), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        stream = await session.open_stream(f"localhost:{port}", "somebody:1")
        assert (await stream.wait_accepted()).startswith("127.0.0.1:")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert await log.wait(Opened) == Opened("somebody:1", f"localhost:{port}")
        assert await log.wait(Ended) == Ended("somebody:1", f"localhost:{port}", 5, 5, clean=True)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("node17:80", Code.PROHIBITED, "muxfs dial --allow node17:80 would allow it"),
        ("80", Code.PROHIBITED, "'80' is not a target"),
        ("unix:/run/x", Code.PROHIBITED, "muxfs dial --allow /run/x would allow it"),
        ("udp:db:53", Code.PROHIBITED, "muxfs dial --allow db:53 would allow it"),
        ("listen:1:plain:localhost:8080", Code.PROHIBITED, "--allow-listen localhost:8080 would"),
        ("forwarded:1:", Code.PROHIBITED, "no listener 1 was asked for"),
        ("nonsense", Code.PROHIBITED, "'nonsense' is not a target"),
        ("", Code.PROHIBITED, "is not a target"),
        ("evil\x1b[2J:1", Code.PROHIBITED, "is not a target"),
    ],
)
async def test_refused_streams(target: str, code: Code, words: str) -> None:
    async with dialling() as (session, log):
        with pytest.raises(StreamRefused) as caught:
            await session.open_stream(target, "some\x07body")
        assert caught.value.code is code
        assert words in caught.value.reason
        refused = await log.wait(Refused)
        assert refused.code is code
        assert f"{refused}".isprintable()


async def test_a_process_without_descriptors_refuses() -> None:
    async with sessions() as (listen, dialler), trio.open_nursery() as nursery:
        its_carrier, _ = carrier(dialler)
        its_carrier.load.most = 0
        nursery.start_soon(lambda: serve_streams(dialler, its_carrier, LOCAL, connect_timeout=5))
        with pytest.raises(StreamRefused, match="EMFILE localhost:1: this process has") as caught:
            await listen.open_stream("localhost:1")
        assert caught.value.code is Code.LIMIT
        nursery.cancel_scope.cancel()


async def test_many_streams_at_once_are_all_answered() -> None:
    port = unused_port()
    refused = []

    async def one(session: Session) -> None:
        try:
            await session.open_stream(f"localhost:{port}")
        except StreamRefused as error:
            refused.append(error.code)

    async with dialling() as (session, _), trio.open_nursery() as nursery:
        for _ in range(600):
            nursery.start_soon(one, session)
    assert refused == [Code.REFUSED] * 600


async def test_a_client_that_leaves_takes_its_dial_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else those who come and go would hold the slots of those who wait, for 30 s each."""
    dialled, ended = trio.Event(), trio.Event()

    async def never(*_: object) -> NoReturn:
        dialled.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    monkeypatch.setattr(incoming, "dial", never)
    async with dialling() as (session, log):
        stream = session.start_stream("localhost:1", "somebody:1")
        await dialled.wait()
        await stream.abort()
        await ended.wait()
        refused = await log.wait(Refused)
        assert refused.code is Code.CANCELLED
        assert "the client has left" in refused.reason


async def test_dials_of_a_hostile_far_side_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that resolve slowly take a thread each; the rest waits for its turn."""
    now, most = 0, 0

    class Slow(Resolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await trio.sleep(0.01)
            now -= 1
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Slow())
    monkeypatch.setattr("muxfs.forwards.incoming.MAX_DIALS", 5)
    async with dialling(ANYTHING) as (session, _):
        for stream in [session.start_stream(f"name{number}:1") for number in range(50)]:
            with pytest.raises(StreamRefused, match="this name is unknown"):
                await stream.wait_accepted()
    assert most == 5


async def test_a_dial_that_is_given_up_resets_what_was_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel connects before anybody knows of it; a FIN would be a clean end of nothing."""
    scope = trio.CancelScope()

    async def give_up(_: object) -> None:
        scope.cancel()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("trio._core.wait_writable", give_up)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        with scope:
            await dialer._connect(socket.AF_INET, server.getsockname())
        assert scope.cancelled_caught
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)


async def test_what_was_connected_as_the_end_left_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would close it, and the kernel would send a FIN for it once it is dropped."""
    scope = trio.CancelScope()
    outer: list[trio.SocketStream] = []

    async def connect(*_: object) -> Connection:
        server, connection = pair()
        outer.append(server)
        scope.cancel()
        return connection

    monkeypatch.setattr(incoming, "dial_loopback", lambda *_: None)
    monkeypatch.setattr(incoming, "dial", connect)
    async with sessions() as (listen, dialler):
        its_carrier, _ = carrier(dialler)
        listen.start_stream("localhost:1")
        with scope:
            await serve_streams(dialler, its_carrier, LOCAL, connect_timeout=5)
    (server,) = outer
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    await server.aclose()


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "127.0.0.1", "::1"])
async def test_an_own_port_is_connected_without_waiting(host: str) -> None:
    address = "::1" if host == "::1" else "127.0.0.1"
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        server.settimeout(60)
        target = Target(host, server.getsockname()[1])
        found: object = dial_loopback(target, ANYTHING)
        if isinstance(found, socket.socket):  # the kernel is busy
            found = await dial(target, ANYTHING, 60, found)
        assert isinstance(found, Connection)
        accepted, _ = server.accept()
        with accepted:
            found.close()
            assert accepted.recv(1) == b""  # a FIN, no reset


async def test_a_busy_kernel_is_waited_for_and_the_server_sees_one_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be through a moment after it said that it is still at it."""
    answers: list[int] = []

    def still_at_it(sock: socket.socket, address: tuple[str, int]) -> int:
        if len(answers) % 2 == 0:
            sock.setblocking(True)
            sock.connect(address)
            sock.setblocking(False)
        answers.append(errno.EALREADY if len(answers) % 2 else errno.EINPROGRESS)
        return answers[-1]

    monkeypatch.setattr(socket.socket, "connect_ex", still_at_it, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with dialling() as (session, log):
            stream = await session.open_stream(f"localhost:{server.getsockname()[1]}")
            await log.wait(Opened)
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert await stream.receive_some(10) == b"hello"
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()
            await stream.aclose()
    assert answers == [errno.EINPROGRESS, errno.EALREADY]


def test_what_needs_more_than_that_is_left_to_dial() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert dial_loopback(Target("127.0.0.1", port), Policy()) is None
        assert dial_loopback(Target("127.0.0.2", port), ANYTHING) is None
        assert dial_loopback(Target("db", port), ANYTHING) is None
        assert dial_loopback(UnixPath("/run/x"), ANYTHING) is None
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
