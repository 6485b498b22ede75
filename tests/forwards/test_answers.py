"""Clients that wait for the far side's answer: for how long, and what if they leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from muxfs import MuxStream, Session
from muxfs.core.wire import Code
from muxfs.forwards import answers
from muxfs.forwards.answers import Awaited
from muxfs.forwards.events import Refused
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import open_port
from muxfs.forwards.spec import Kind, parse_forwards

from .harness import Log, carrier, is_reset, receive_all, reset, sessions

QUIET = 0.2
"""Seconds, of many looks, in which nothing happens."""
KINDS = ["-L", "-D", "unix"]
SOCKS = b"\x04\x01\x00\x50\x00\x00\x00\x01x\x00db\x00"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LOOK", 0.01)
    monkeypatch.setattr(answers, "GRACE", 0.0)


@asynccontextmanager
async def waiting(
    kind: str, path: Path, timeout: float = 1000
) -> AsyncIterator[tuple[trio.SocketStream, MuxStream, Log]]:
    """Give a client that waits for an answer, its stream at the far side, and the near log."""
    text = {"-L": "127.0.0.1:0:db:80", "-D": "[::1]:0", "unix": f"{path / 's'}:db:80"}[kind]
    (forward,) = parse_forwards(text, Kind.DYNAMIC if kind == "-D" else Kind.LOCAL)
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        its_carrier, log = carrier(listen)
        port = await open_port(forward)
        nursery.start_soon(ForwardListener(its_carrier, port, connect_timeout=timeout).run)
        nursery.start_soon(its_carrier.load.answers.watch)
        if kind == "unix":
            client = await trio.open_unix_socket(port.addresses[0])
        else:
            client = await trio.open_tcp_stream(port.addresses[0], port.port)
        if kind == "-D":
            await client.send_all(SOCKS)
        stream = await first(dial)
        async with client:
            yield client, stream, log
        nursery.cancel_scope.cancel()


async def first(session: Session) -> MuxStream:
    return await session.listen(auto_accept=False).accept()


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_is_noticed(kind: str, how: str, tmp_path: Path) -> None:
    """Its stream holds one of the far side's dials."""
    async with waiting(kind, tmp_path) as (client, stream, log):
        if how == "reset" and kind != "unix":
            reset(client)
        else:
            await client.aclose()
        await stream.wait_given_up()
        if how == "closed":
            refused = await log.wait(Refused)
            assert (refused.code, refused.reason) == (Code.CANCELLED, "the client has left")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_only_sends_no_more_is_answered(kind: str, tmp_path: Path) -> None:
    async with waiting(kind, tmp_path) as (client, stream, log):
        await client.send_eof()
        with trio.move_on_after(QUIET) as scope:
            await stream.wait_given_up()
        assert scope.cancelled_caught
        await stream.accept()
        await stream.send_all(b"here you are")
        await stream.send_eof()
        assert (await receive_all(client)).endswith(b"here you are")
        assert not [event for event in log.events if isinstance(event, Refused)]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_client_sent_before_it_left_arrives(kind: str, tmp_path: Path) -> None:
    """As with `echo message | nc`: it did not wait for an answer."""
    async with waiting(kind, tmp_path) as (client, stream, _):
        await client.send_all(b"message")
        await client.aclose()
        with trio.move_on_after(QUIET) as scope:
            await stream.wait_given_up()
        assert scope.cancelled_caught
        await stream.accept()
        if kind != "-D":  # who asks a proxy, and leaves, has not learned that it was connected
            assert await stream.receive_some() == b"message"
            assert await stream.receive_some() == b""


@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_in_time(kind: str, tmp_path: Path) -> None:
    async with waiting(kind, tmp_path, 0.3) as (client, stream, log):
        if kind == "-D":
            assert (await receive_all(client))[:2] == b"\x00\x5b"
        elif kind == "-L":
            assert await is_reset(client)
        else:
            assert await receive_all(client) == b""  # Unix sockets have no reset
        await stream.wait_given_up()
        refused = await log.wait(Refused)
        assert refused.code is Code.TIMEOUT
        assert refused.reason == "no answer of the other side within 0.3 s"
        assert refused.target == "db:80"


async def test_who_has_its_answer_is_looked_at_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Awaited] = []

    def look(self: Awaited) -> None:
        looks.append(self)

    monkeypatch.setattr(Awaited, "look", look)
    async with waiting("-L", tmp_path) as (client, stream, _):
        await stream.accept()
        await stream.send_all(b"!")
        assert await client.receive_some() == b"!"
        looks.clear()
        await trio.sleep(QUIET)
        assert not looks
