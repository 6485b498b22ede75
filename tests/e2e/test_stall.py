"""A consumer that never reads: memory stays bounded, and the others do not notice."""

from __future__ import annotations

import pytest
import trio

from .net import MIB, connect, echo, receive_exactly, serve
from .process import EVENT_TIMEOUT, Tunnel

OFFERED = 1024 * MIB
ACCEPTED_AT_MOST = 64 * MIB  # two kernels' socket buffers on each leg, and the window
GROWTH_AT_MOST = 64 * MIB
QUIET = 3.0  # no byte taken for so long: the sender is stalled


async def offer(stream: trio.SocketStream) -> int:
    """Send up to OFFERED bytes until they are not taken any more; return how many were."""
    sent, data = 0, bytes(MIB)
    while sent < OFFERED:
        with trio.move_on_after(QUIET) as patience:
            sent += await stream.socket.send(data)
        if patience.cancelled_caught:
            break
    return sent


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_stalled_consumer(tunnel: Tunnel, nursery: trio.Nursery, sender: str) -> None:
    results, accepted = trio.open_memory_channel[int](1)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"!")
            if sender == "server":
                await results.send(await offer(stream))
            await trio.sleep_forever()

    async def client(port: int) -> None:
        async with await connect(port) as stream:
            await receive_exactly(stream, 1)
            if sender == "client":
                await results.send(await offer(stream))
            await trio.sleep_forever()

    stalling, answering = await serve(nursery, server), await serve(nursery, echo)
    listen, dial = await tunnel.connect(stalling, answering)
    stalled, steadily = listen.ports()

    async with await connect(steadily) as steady, trio.open_nursery() as clients:
        await steady.send_all(b"?")
        await receive_exactly(steady, 1)
        before = {side: side.resident() for side in (listen, dial)}
        clients.start_soon(client, stalled)
        taken = None
        while taken is None:
            with trio.fail_after(EVENT_TIMEOUT):
                await steady.send_all(b"still there?")
                await receive_exactly(steady, 12)
            await trio.sleep(0.01)
            try:
                taken = accepted.receive_nowait()
            except trio.WouldBlock:
                continue
        grown = {side.name: side.resident() - size for side, size in before.items()}
        clients.cancel_scope.cancel()

    assert taken < ACCEPTED_AT_MOST
    assert all(growth < GROWTH_AT_MOST for growth in grown.values()), grown
    nursery.cancel_scope.cancel()
