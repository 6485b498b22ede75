"""Sides that are killed, ended and restarted under load.

The streams of the side that lives end with a reset as soon as the other one is back, no
wrong byte is ever delivered, and the next session forms by itself.
"""

from __future__ import annotations

import attrs
import pytest
import trio

from .net import (
    MIB,
    Outcome,
    Reset,
    assert_reset,
    connect,
    exchange,
    flood,
    receive_exactly,
    serve,
)
from .process import CLEAN_EXITS, EVENT_TIMEOUT, Side, Tunnel, also_sealed

pytestmark = also_sealed

CONNECTIONS = 4
ENDLESS = 0  # as the first byte of a connection: send until it breaks
BOUNDED = 1  # exchange one MiB

both = pytest.mark.parametrize("victim", ["listen", "dial"])


@attrs.define
class Ends:
    """How the streams that a party held have ended, and a way to wait for it."""

    outcomes: list[Outcome] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._news.set()
        self._news = trio.Event()

    async def all(self, count: int) -> set[Outcome]:
        """Wait until `count` streams have ended."""
        with trio.fail_after(EVENT_TIMEOUT):
            while len(self.outcomes) < count:
                await self._news.wait()
        return set(self.outcomes)


@attrs.define
class Load:
    """Endless transfers in both directions, and what became of them at both ends."""

    nursery: trio.Nursery
    clients: Ends = attrs.field(factory=Ends)
    servers: Ends = attrs.field(factory=Ends)
    _warm: set[str] = attrs.field(factory=set)
    _all_warm: trio.Event = attrs.field(factory=trio.Event)

    def _is_warm(self, pattern: str) -> None:
        self._warm.add(pattern)
        if len(self._warm) == 2 * CONNECTIONS:
            self._all_warm.set()

    async def server(self, stream: trio.SocketStream) -> None:
        """Handle a connection at the service."""
        async with stream:
            kind, number = await receive_exactly(stream, 2)
            out, into = f"down {number}", f"up {number}"
            if kind == BOUNDED:
                await exchange(stream, out, into, MIB)
            else:
                self.servers.add(await flood(stream, out, into, lambda: self._is_warm(into)))

    async def _client(self, port: int, number: int) -> None:
        async with await connect(port) as stream:
            await stream.send_all(bytes([ENDLESS, number]))
            out, into = f"up {number}", f"down {number}"
            ended = await flood(stream, out, into, lambda: self._is_warm(into))
            self.clients.add(ended)

    async def start(self, port: int) -> None:
        """Open the connections and wait until bytes flow in all of them, both ways."""
        for number in range(CONNECTIONS):
            self.nursery.start_soon(self._client, port, number)
        with trio.fail_after(EVENT_TIMEOUT):
            await self._all_warm.wait()


async def check_exchange(port: int) -> None:
    """One connection with a full-duplex exchange to its clean end."""
    async with await connect(port) as stream:
        await stream.send_all(bytes([BOUNDED, 99]))
        await exchange(stream, "up 99", "down 99", MIB)


async def restart(tunnel: Tunnel, victim: str, target: int, survivor: Side) -> Side:
    """Start the victim again and wait for the next session."""
    seen = len(survivor.events)
    if victim == "listen":
        side = await tunnel.listen(target)
    else:
        side = await tunnel.dial()
    await side.event("established")
    await survivor.event("established", after=seen)
    return side


@both
async def test_kill_under_load(tunnel: Tunnel, nursery: trio.Nursery, victim: str) -> None:
    """kill -9, twice in a row: recovery is no matter of luck or of the first time."""
    loads: list[Load] = []

    async def server(stream: trio.SocketStream) -> None:
        await loads[-1].server(stream)

    target = await serve(nursery, server)
    listen, dial = await tunnel.connect(target)
    for _ in range(2):
        loads.append(Load(nursery))
        await loads[-1].start(await listen.port())
        if victim == "listen":
            listen.kill()
            listen = await restart(tunnel, victim, target, dial)
            survivors, others = loads[-1].servers, loads[-1].clients
        else:
            dial.kill()
            dial = await restart(tunnel, victim, target, listen)
            survivors, others = loads[-1].clients, loads[-1].servers
        assert await survivors.all(CONNECTIONS) == {"reset"}
        # At the killed side the kernel closes the sockets, by a FIN or a reset.
        await others.all(CONNECTIONS)
        await check_exchange(await listen.port())


@both
async def test_orderly_end_under_load(tunnel: Tunnel, nursery: trio.Nursery, victim: str) -> None:
    """SIGTERM: unfinished streams are reset at both ends, before any restart."""
    load = Load(nursery)
    target = await serve(nursery, load.server)
    listen, dial = await tunnel.connect(target)
    await load.start(await listen.port())
    leaving, staying = (listen, dial) if victim == "listen" else (dial, listen)
    assert await leaving.terminate() in CLEAN_EXITS
    assert await load.clients.all(CONNECTIONS) == {"reset"}
    assert await load.servers.all(CONNECTIONS) == {"reset"}
    await staying.event("lost")
    back = await restart(tunnel, victim, target, staying)
    await check_exchange(await (back if victim == "listen" else listen).port())


@both
async def test_orderly_end_of_an_idle_session(
    tunnel: Tunnel, nursery: trio.Nursery, victim: str
) -> None:
    """An open connection without traffic ends as well, and so does the other process."""
    results, outcomes = trio.open_memory_channel[str](1)

    async def hold(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"!")
            try:
                end = await stream.receive_some(1)
                await results.send("end" if not end else "data")
            except Reset as broken:
                assert_reset(broken)
                await results.send("reset")

    listen, dial = await tunnel.connect(await serve(nursery, hold))
    leaving, staying = (listen, dial) if victim == "listen" else (dial, listen)
    async with await connect(await listen.port()) as stream:
        await receive_exactly(stream, 1)
        assert await leaving.terminate() in CLEAN_EXITS
        with pytest.raises(Reset) as broken, trio.fail_after(EVENT_TIMEOUT):
            await stream.receive_some(1)
        assert_reset(broken.value)
        assert await outcomes.receive() == "reset"
    await staying.event("lost")
    assert await staying.terminate() in CLEAN_EXITS


async def test_both_killed_and_restarted(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    """Files that killed jobs left behind never look alive."""
    load = Load(nursery)
    target = await serve(nursery, load.server)
    listen, dial = await tunnel.connect(target)
    await load.start(await listen.port())
    listen.kill()
    dial.kill()
    await load.clients.all(CONNECTIONS)
    await load.servers.all(CONNECTIONS)
    listen, _ = await tunnel.connect(target)
    await check_exchange(await listen.port())
