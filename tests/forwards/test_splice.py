"""TCP's semantics across two spliced connections."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from muxfs.core.wire import Code
from muxfs.forwards.splice import End, Transfer, splice
from muxfs.forwards.tcp import Buffer, Connection

from .harness import is_reset, joined, pair, receive_all, reset, send_for_ever

MIB = 1 << 20


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


async def test_bytes_cross_both_ways_at_once() -> None:
    up, down = noise(4 * MIB, 1), noise(4 * MIB, 2)
    got: dict[str, bytes] = {}

    async def talk(name: str, stream: trio.SocketStream, data: bytes) -> None:
        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with trio.open_nursery() as both:
            both.start_soon(send)
            got[name] = await receive_all(stream)

    async with joined() as ends:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, "client", ends.client, up)
            nursery.start_soon(talk, "server", ends.server, down)
        assert got == {"client": down, "server": up}
        await ends.over.wait()
        assert ends.near.clean
        assert ends.far.clean
        assert (ends.near.sent, ends.near.received) == (len(up), len(down))
        assert (ends.far.sent, ends.far.received) == (len(down), len(up))


@attrs.define
class Slow:
    """A stream that takes a piece once the client has sent all that its socket takes."""

    turn: int
    sizes: list[int] = attrs.field(factory=list)
    over: trio.Event = attrs.field(factory=trio.Event)

    def send_now(self, data: bytes) -> bool:
        self.sizes.append(len(data))
        return True

    async def send_all(self, data: Buffer) -> None:
        self.sizes.append(len(data))
        await wait_all_tasks_blocked()

    def send_eof_now(self) -> bool:
        self.over.set()
        return True

    async def send_eof(self) -> None:
        raise AssertionError("it was sent at once")

    def feed(self, sink: Callable[[Buffer], Buffer], overflow: Callable[[], None]) -> bool:
        return False

    def stop_feeding(self) -> None:
        pass

    async def receive_buffer(
        self, max_bytes: int, sink: Callable[[Buffer], Buffer] | None = None
    ) -> Buffer:
        await self.over.wait()
        return b""

    def close_now(self) -> bool:
        return True

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def abort(self, code: Code = Code.CANCELLED, reason: str = "") -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("turn", [128 << 10, MIB])
async def test_what_is_read_at_once_is_no_more_than_the_streams_turn(turn: int) -> None:
    client, near = pair()
    slow = Slow(turn)

    async def send() -> None:
        await client.send_all(bytes(16 * MIB))
        await client.send_eof()

    async with trio.open_nursery() as nursery, client:
        nursery.start_soon(send)
        await splice(near, slow, Transfer())
    assert sum(slow.sizes) == 16 * MIB
    assert turn >= max(slow.sizes) > turn // 2


async def test_half_close_and_then_the_reply() -> None:
    async with joined() as ends:
        await ends.client.send_all(b"question")
        await ends.client.send_eof()
        assert await receive_all(ends.server) == b"question"
        await trio.sleep(0.05)
        await ends.server.send_all(b"answer" * 1000)
        await ends.server.send_eof()
        assert await receive_all(ends.client) == b"answer" * 1000


async def test_the_server_ends_first() -> None:
    async with joined() as ends:
        await ends.server.send_all(b"greeting")
        await ends.server.send_eof()
        assert await receive_all(ends.client) == b"greeting"
        await ends.client.send_all(b"still here")
        await ends.client.send_eof()
        assert await receive_all(ends.server) == b"still here"


@pytest.mark.parametrize("run", range(5))
async def test_what_was_written_before_close_arrives(run: int) -> None:
    data = noise(MIB, run)
    async with joined() as ends, trio.open_nursery() as nursery:
        nursery.start_soon(_send_and_close, ends.client, data)
        assert await receive_all(ends.server) == data


async def _send_and_close(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.aclose()


async def test_reset_by_the_client() -> None:
    async with joined() as ends:
        await ends.client.send_all(b"half a")
        assert await ends.server.receive_some() == b"half a"
        reset(ends.client)
        assert await is_reset(ends.server)
        assert ends.near.up is End.FAILED


async def test_reset_by_the_server() -> None:
    async with joined() as ends:
        await ends.server.send_all(b"half a")
        assert await ends.client.receive_some() == b"half a"
        reset(ends.server)
        assert await is_reset(ends.client)


async def test_reset_after_the_other_direction_ended() -> None:
    async with joined() as ends:
        await ends.client.send_eof()
        assert await receive_all(ends.server) == b""
        reset(ends.server)
        assert await is_reset(ends.client)


async def test_reply_of_a_server_that_does_not_read_the_rest_arrives() -> None:
    """The server answers, says FIN, and closes while the client still writes."""
    answer = noise(300_000)
    async with joined() as ends:
        await ends.server.send_all(answer)
        await ends.server.send_eof()
        got = bytearray()
        while len(got) < len(answer):
            got += await ends.client.receive_some()
        await ends.server.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(ends.client)
        assert got == answer


async def test_reply_arrives_though_the_client_reads_late_and_writes_on() -> None:
    answer = noise(200_000)
    async with joined() as ends:
        await ends.server.send_all(answer)
        await ends.server.aclose()
        with trio.move_on_after(0.3):
            while True:  # more than anybody takes: the far end is closed
                try:
                    await ends.client.send_all(bytes(65536))
                except trio.BrokenResourceError:
                    break
        got = bytearray()
        try:
            while data := await ends.client.receive_some():
                got += data
        except trio.BrokenResourceError:
            pass
        assert got == answer


async def test_backpressure() -> None:
    """A server that does not read stops its client; nothing is lost."""
    data = noise(64 * MIB // 8)
    async with joined() as ends, trio.open_nursery() as nursery:
        nursery.start_soon(_send_and_close, ends.client, data * 8)
        before = -1
        while ends.near.sent != before:
            before = ends.near.sent
            await trio.sleep(0.3)
        assert before < len(data) * 8
        received = 0
        while some := await ends.server.receive_some(MIB):
            at = received % len(data)
            piece = (data + data[:MIB])[at : at + len(some)]
            assert some == piece
            received += len(some)
        assert received == len(data) * 8


async def test_cancellation_resets_both() -> None:
    async with joined() as ends:
        await ends.client.send_all(b"x")
        assert await ends.server.receive_some() == b"x"
        with trio.CancelScope(shield=True):
            ends.scope.cancel()
            assert await is_reset(ends.client)
            assert await is_reset(ends.server)


async def test_an_end_after_a_reset_is_no_clean_end() -> None:
    """The write takes the error out of the kernel; the read must not see an end of file."""
    outer, inner = pair()
    reset(outer)
    with pytest.raises(OSError, match="reset") as caught:
        await send_for_ever(inner)
    assert caught.value.errno == errno.ECONNRESET
    with pytest.raises(ConnectionResetError):
        await inner.receive(10)
    inner.close()


async def test_a_reset_that_a_first_look_met_is_told_by_the_next() -> None:
    outer, inner = pair()
    reset(outer)
    await trio.lowlevel.wait_readable(inner.sock)
    assert inner.receive_now(10) == b""
    with pytest.raises(ConnectionResetError):
        await inner.receive(10)
    inner.close()


async def test_a_first_look_takes_what_is_there() -> None:
    outer, inner = pair()
    async with outer:
        assert inner.receive_now(10) == b""
        await outer.send_all(b"first")
        await trio.lowlevel.wait_readable(inner.sock)
        assert inner.receive_now(10) == b"first"
        await outer.send_all(b"second")
        assert await inner.receive(10) == b"second"
        await outer.send_eof()
        assert await inner.receive(10) == b""
    inner.close()


async def test_an_end_before_the_reset_is_a_clean_end() -> None:
    outer, inner = pair()
    await outer.send_all(b"all")
    await outer.aclose()
    with pytest.raises(OSError, match="pipe") as caught:
        await send_for_ever(inner)
    assert caught.value.errno == errno.EPIPE
    assert await inner.receive(10) == b"all"
    assert await inner.receive(10) == b""
    inner.close()


async def test_finish_delivers_though_bytes_were_never_read() -> None:
    outer, inner = pair()
    data = noise(8 * MIB)
    async with outer, trio.open_nursery() as nursery:

        async def send() -> None:
            await inner.send_all(data)
            inner.send_eof()
            await outer.send_all(b"never read")
            await inner.finish()

        nursery.start_soon(send)
        await trio.sleep(0.05)
        got = bytearray()
        while some := await outer.receive_some():
            got += some
        assert got == data


async def test_reset_and_close_of_a_dead_connection() -> None:
    outer, inner = pair()
    reset(outer)
    inner.reset()
    inner.reset()
    inner.close()
    assert inner.peer == ""
    assert inner.local == ""


async def test_nodelay() -> None:
    outer, inner = pair()
    raw = inner._sock
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert isinstance(inner, Connection)
    inner.close()
    await outer.aclose()
