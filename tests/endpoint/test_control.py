"""The control socket of an end: requests, and clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from muxfs import credentials
from muxfs.control import client, place, protocol
from muxfs.control.protocol import Message
from muxfs.endpoint import control
from muxfs.endpoint.control import Control
from muxfs.endpoint.endpoint import Endpoint
from tests.endpoint.tunnel import MemoryTunnel

from .test_endpoint import echo_server, end
from .test_forwards import LENDING

TUNNEL = "/home/ann/.muxfs/job"


@attrs.frozen
class Running:
    """A listening end with a control socket, and the dialling end that it knows."""

    endpoint: Endpoint
    control: Control
    path: Path
    """Of the socket."""

    def connect(self) -> socket.socket:
        """Connect without any protocol."""
        sock = socket.socket(socket.AF_UNIX)
        with place.opened(str(self.path.parent)) as directory:
            sock.connect(place.address(directory, self.path.name))
        sock.settimeout(60)
        return sock

    async def ask(self, descriptors: tuple[int, ...] = (), **request: object) -> Message:
        """Send a request, and return the answer."""

        def ask() -> Message:
            found = next(client.find(TUNNEL, "listen"))
            found.send(request, descriptors)
            answer = found.receive()
            found.close()
            return answer

        return await trio.to_thread.run_sync(ask)


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with serving() as running:
        yield running


@asynccontextmanager
async def serving() -> AsyncIterator[Running]:
    tunnel = MemoryTunnel()
    async with (
        end(tunnel, "listen") as (listen, _),
        end(tunnel, "dial", policy=LENDING),
        trio.open_nursery() as nursery,
    ):
        served = Control(listen, TUNNEL)
        await nursery.start(served.run)
        await listen.sessions.wait_established()
        name = f"{place.stem(TUNNEL, 'listen', 0)}.sock"
        yield Running(listen, served, Path(place.directories()[0]) / name)
        nursery.cancel_scope.cancel()


def in_thread(job: Callable[[], Any]) -> Any:
    return trio.to_thread.run_sync(job)


def hellos(role: str, tunnel: str = TUNNEL) -> list[Message]:
    """What the ends say that are found."""
    found = []
    for one in client.find(tunnel, role):
        found.append(one.hello)
        one.close()
    return found


def talk(sock: socket.socket, *messages: bytes) -> list[Message]:
    """Send, and receive until the other side closes."""
    received = b""
    with sock:
        with contextlib.suppress(BrokenPipeError):  # it was refused before
            for message in messages:
                sock.sendall(message)
        try:
            while data := sock.recv(65536):
                received += data
        except ConnectionResetError:
            pass  # it did not read all that was sent
    return [json.loads(line) for line in received.splitlines()]


async def test_it_says_who_it_is(running: Running) -> None:
    (hello,) = await in_thread(lambda: hellos("listen"))
    assert hello == {"muxfs": 1, "pid": os.getpid(), "role": "listen", "tunnel": TUNNEL}
    assert await in_thread(lambda: hellos("dial")) == []
    assert await in_thread(lambda: hellos("listen", "/home/bob")) == []


async def test_status(running: Running) -> None:
    status = await running.ask(request="status")
    assert status["ok"] is True
    (session,) = status["sessions"]
    assert session["session"] == 0
    assert session["stats"]["state"] == "established"
    assert session["peer"]["host"] == socket.gethostname()
    assert status["forwards"] == []


async def test_forwards_come_and_go(running: Running) -> None:
    async with echo_server() as target:
        added = await running.ask(request="forward", forwards=[f"-L 0:{target}"])
        (forward,) = added["forwards"]
        assert forward["forward"] == f"-L 0:{target}"
        host, _, port = forward["bound"].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            assert (await running.ask(request="status"))["forwards"] == [forward]
            # by the port that it got
            one = f"-L {port}:{target}"
            assert await running.ask(request="cancel", forwards=[one]) == {
                "ok": True,
                "forwards": [forward],
            }
            assert (await running.ask(request="status"))["forwards"] == []
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(host, int(port))
            await stream.send_all(b"goes on")
            assert await stream.receive_some() == b"goes on"
    again = await running.ask(request="cancel", forwards=[one])
    assert again["code"] == "UNKNOWN"
    assert "is not forwarded here" in again["error"]


async def test_a_remote_forward_is_cancelled_by_the_port_that_it_got(running: Running) -> None:
    added = await running.ask(request="forward", forwards=["-R 0:localhost:1"])
    (forward,) = added["forwards"]
    _, _, port = forward["bound"].rpartition(":")
    one = f"-R {port}:localhost:1"
    cancelled = await running.ask(request="cancel", forwards=[one])
    assert cancelled == {"ok": True, "forwards": [forward]}
    assert running.endpoint.forwards == ()


async def test_all_forwards_of_a_request_or_none(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = await running.ask(request="forward", forwards=["-L 0:1", f"-L {port}:1"])
    assert answer["code"] == "UNAVAILABLE"
    assert f"port {port} of localhost is in use" in answer["error"]
    assert running.endpoint.forwards == ()
    same = ["-L 0:1", "-L 0:1"]
    assert (await running.ask(request="forward", forwards=same))["ok"]
    assert (await running.ask(request="cancel", forwards=[*same, "-L 0:1"]))["code"] == "UNKNOWN"
    assert len(running.endpoint.forwards) == 2
    assert (await running.ask(request="cancel", forwards=same))["ok"]
    assert running.endpoint.forwards == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\n", "this is not JSON"),
        (b"\xff\xfe garbage\n", "this is not JSON"),
        (b"[" * 60000 + b"\n", "this is not JSON"),
        (b"[]\n", "this is not a JSON object"),
        (b"{}\n", "the requests are connect, forward, cancel, status"),
        (b'{"request": ["status"]}\n', "the requests are"),
        (b'{"request": "forward"}\n', "'forwards' must be a list of texts"),
        (b'{"request": "forward", "forwards": [1]}\n', "'forwards' must be a list of texts"),
        (b'{"request": "forward", "forwards": ["-Q 1"]}\n', "'-Q' is none of -L, -R"),
        (b'{"request": "forward", "forwards": ["-L x"]}\n', "'x' is not a forward"),
        (b'{"request": "cancel", "forwards": ["-L 1"]}\n', "is not forwarded here"),
        (b'{"request": "connect"}\n', "'target' must be a text"),
        (b'{"request": "connect", "target": "::"}\n', "is not a target"),
        (b'{"request": "connect", "target": "1", "timeout": NaN}\n', "'timeout' must be seconds"),
        (b'{"request": "connect", "target": "1", "timeout": "1"}\n', "'timeout' must be seconds"),
        (b'{"request": "connect", "target": "1"}\n', "connect needs a socket"),
        (b"x" * protocol.MAX_LINE, "longer than 65536 bytes"),
    ],
)
async def test_requests_that_make_no_sense(running: Running, line: bytes, words: str) -> None:
    hello, answer = await in_thread(lambda: talk(running.connect(), line))
    assert hello["muxfs"] == 1
    assert answer["ok"] is False
    assert words in answer["error"]
    assert (await running.ask(request="status"))["ok"]


async def test_descriptors_that_are_no_sockets_are_closed(running: Running) -> None:
    def attempt(descriptors: list[int]) -> Message:
        with running.connect() as sock:
            socket.send_fds(sock, [b'{"request": "connect", "target": "1"}\n'], descriptors)
            return talk(sock)[-1]

    null = os.open(os.devnull, os.O_RDWR)
    before = len(os.listdir("/proc/self/fd"))
    for count in (1, 2, 3, 200):
        answer = await in_thread(lambda count=count: attempt([null] * count))
        assert answer["ok"] is False
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(null)


async def test_clients_that_say_nothing_have_their_time(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are served at once, and after them one that asks."""
    monkeypatch.setattr(protocol, "HELLO_TIME", 0.5)
    silent = [running.connect() for _ in range(2 * control.MAX_ASKING)]
    silent[0].send(b'{"request":')
    status = await trio.to_thread.run_sync(
        lambda: talk(running.connect(), b'{"request": "status"}\n')
    )
    assert status[-1]["ok"]
    for sock in silent:
        assert len(await in_thread(lambda sock=sock: talk(sock))) == 1  # the hello alone


async def test_many_clients_at_once(running: Running) -> None:
    answers: list[Message] = []

    async def one() -> None:
        answers.append(await running.ask(request="status"))

    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(one)
    assert len(answers) == 300
    assert all(answer["ok"] for answer in answers)


async def test_other_users_are_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes in all the same, such as root: by the kernel's word on who it is."""
    monkeypatch.setattr(credentials, "of_peer", lambda _: (1, 12345))
    (answer,) = await in_thread(lambda: talk(running.connect(), b'{"request": "status"}\n'))
    assert answer["code"] == "PROHIBITED"


async def test_a_removed_socket_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(control, "LOOK", 0.01)
    async with serving() as running:
        running.path.unlink()
        with trio.fail_after(60):
            while not await in_thread(lambda: hellos("listen")):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert (await running.ask(request="status"))["ok"]


async def test_nobody_is_turned_away_by_an_end_that_leaves(running: Running) -> None:
    """A client that waits, or is being served, is use; then the socket goes, before the end."""
    with running.connect() as sock:
        async with trio.open_nursery() as nursery:
            left = trio.Event()

            async def leave() -> None:
                await running.control.leave_when_idle(0.08)
                left.set()

            nursery.start_soon(leave)
            with trio.move_on_after(0.3):
                await left.wait()
            assert not left.is_set()
            await in_thread(lambda: talk(sock, b'{"request": "status"}\n'))
            await left.wait()
    assert not running.path.exists()
    assert not hellos("listen")
