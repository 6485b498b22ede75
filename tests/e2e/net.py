"""Small TCP servers and clients that know every byte they should see."""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal

import attrs
import trio

CHUNK = 65536
MIB = 1 << 20

Handler = Callable[[trio.SocketStream], Awaitable[None]]
Outcome = Literal["end", "reset"]

Reset = trio.BrokenResourceError


class Pattern:
    """An endless byte sequence, known at each offset and another one for each name.

    Its period is a prime, so that no shift by pages, batches or rings goes unnoticed.
    """

    PERIOD = 65521

    def __init__(self, name: str) -> None:
        period = hashlib.shake_128(name.encode()).digest(self.PERIOD)
        self._bytes = memoryview(period * (CHUNK // self.PERIOD + 2))

    def at(self, offset: int, length: int) -> memoryview:
        """Return up to CHUNK bytes of the sequence."""
        start = offset % self.PERIOD
        return self._bytes[start : start + length]


@attrs.define
class Reader:
    """Receives a pattern and checks every byte."""

    stream: trio.SocketStream
    name: str
    count: int = 0
    _pattern: Pattern = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pattern = Pattern(self.name)

    async def some(self, most: int = CHUNK) -> bool:
        """Read and check what is there; False at the end of the stream."""
        data = await self.stream.receive_some(most)
        right = data == self._pattern.at(self.count, len(data))
        assert right, f"{self.name}: wrong bytes from {self.count} on"
        self.count += len(data)
        return bool(data)

    async def take(self, length: int) -> None:
        """Read until `count` is `length`."""
        while self.count < length:
            more = await self.some(min(CHUNK, length - self.count))
            assert more, f"{self.name}: ended at {self.count}, not at {length}"

    async def take_all(self) -> None:
        """Read to the end of the stream."""
        while await self.some():
            pass


async def send_pattern(stream: trio.SocketStream, name: str, length: int | None) -> None:
    """Send the first `length` bytes of the pattern; all of it (for ever) if None."""
    pattern, sent = Pattern(name), 0
    while length is None or sent < length:
        data = pattern.at(sent, CHUNK if length is None else min(CHUNK, length - sent))
        await stream.send_all(data)
        sent += len(data)


async def exchange(stream: trio.SocketStream, out: str, into: str, length: int) -> None:
    """Full duplex: send `length` bytes of one pattern while receiving as many of another."""

    async def send() -> None:
        await send_pattern(stream, out, length)
        await stream.send_eof()

    reader = Reader(stream, into)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await reader.take_all()
    assert reader.count == length, f"{into}: {reader.count} bytes of {length}"


async def flood(
    stream: trio.SocketStream, out: str, into: str, warm: Callable[[], None] = lambda: None
) -> Outcome:
    """Send and check patterns without end; return how the stream ended.

    `warm` is called with each piece from the first MiB on.
    """
    # The kernel tells of a reset once for each socket: to the sender or to the receiver,
    # which then sees an end. So both watch for it.
    resets: list[Reset] = []

    async def send() -> None:
        try:
            await send_pattern(stream, out, None)
        except Reset as broken:
            resets.append(broken)

    async def receive() -> None:
        reader = Reader(stream, into)
        try:
            while await reader.some():
                if reader.count >= MIB:
                    warm()
        except Reset as broken:
            resets.append(broken)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await receive()
        nursery.cancel_scope.cancel()
    for broken in resets:
        assert_reset(broken)
    return "reset" if resets else "end"


async def receive_exactly(stream: trio.SocketStream, length: int) -> bytes:
    """Read `length` bytes; an earlier end of the stream fails the test."""
    data = b""
    while len(data) < length:
        more = await stream.receive_some(length - len(data))
        assert more, f"the stream ended after {len(data)} of {length} bytes"
        data += more
    return data


async def receive_all(stream: trio.SocketStream) -> bytes:
    """Read to the end of the stream."""
    return b"".join([data async for data in stream])


async def connect(port: int) -> trio.SocketStream:
    """Connect to a local port."""
    sock = trio.socket.socket()
    try:
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def serve(nursery: trio.Nursery, handler: Handler, port: int = 0) -> int:
    """Serve `handler` on a local port (0: a free one) until the nursery ends; return the port."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=1024)
    nursery.start_soon(trio.serve_listeners, handler, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes, then end."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def check_echo(port: int, message: bytes = b"are you there?") -> None:
    """One short connection to an echo server behind `port`."""
    async with await connect(port) as stream:
        await stream.send_all(message)
        await stream.send_eof()
        assert await receive_all(stream) == message


async def reset(stream: trio.SocketStream) -> None:
    """Close with a TCP reset instead of a FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def check_refused(port: int, use: Handler) -> None:
    """Connect, `use` the connection, and check that it is reset.

    The refusal may be here before the kernel has told that the connection stands.
    """
    try:
        stream = await connect(port)
    except ConnectionResetError:
        return
    async with stream:
        try:
            await use(stream)
        except Reset as broken:
            assert_reset(broken)
        else:
            raise AssertionError("a refused connection ended cleanly")


async def discard(stream: trio.SocketStream) -> None:
    """Read to the end of the stream."""
    async for _ in stream:
        pass


async def outcome(stream: trio.SocketStream) -> Outcome:
    """Read until the stream ends, and say how it did."""
    try:
        await discard(stream)
    except Reset as broken:
        assert_reset(broken)
        return "reset"
    return "end"


def assert_reset(broken: trio.BrokenResourceError) -> None:
    """Check that it was the other end's reset that broke a stream."""
    cause = broken.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno in (errno.ECONNRESET, errno.EPIPE), cause
