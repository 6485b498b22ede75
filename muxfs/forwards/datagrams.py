"""UDP over streams: one stream for each client and target, each datagram kept whole.

Rule: nothing waits. What does not fit is dropped, as UDP itself would.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from muxfs.errors import StreamEnded, ending_of
from muxfs.forwards.tcp import Buffer
from muxfs.stream import MuxStream

IDLE_TIME: Final = 120.0
"""Seconds without a datagram after which an association ends (RFC 4787, REQ-5: two minutes)."""
MAX_DATAGRAM: Final = 65535
BURST: Final = 64
"""Datagrams that are taken from a socket, or sent to it, before other tasks run."""
RECEIVE_SIZE: Final = 1 << 16
"""Of a stream, which may have thousands of empty datagrams in it."""

_LENGTH: Final = 2


def pack(datagram: bytes) -> bytes:
    """Put the length before a datagram."""
    return len(datagram).to_bytes(_LENGTH, "big") + datagram


class Unpacker:
    """Finds the datagrams in the bytes of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: Buffer) -> list[bytes]:
        """Take bytes; return the datagrams that are whole now."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while len(buffer) >= at + _LENGTH:
            end = at + _LENGTH + int.from_bytes(buffer[at : at + _LENGTH], "big")
            if len(buffer) < end:
                break
            found.append(bytes(buffer[at + _LENGTH : end]))
            at = end
        del buffer[:at]
        return found


class Association:
    """The datagrams between one client and one target, over one stream."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        """deliver: passes on what comes out of the stream, or drops it; never waits."""
        self.sent = 0
        self.received = 0
        self._stream: MuxStream | None = None
        self._deliver = deliver
        self.scope = trio.CancelScope()
        """Ends the association; its deadline is when it has been idle for too long."""
        self.touch()

    def send(self, datagram: bytes) -> None:
        """Send a datagram while `carry` runs, or drop it."""
        self.touch()
        # the stream may be over; then `carry` ends, too
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._stream is not None and self._stream.send_now(pack(datagram)):
                self.sent += len(datagram)

    async def carry(
        self, stream: MuxStream, may_deliver: Callable[[], Awaitable[bool]] | None = None
    ) -> StreamEnded | None:
        """Carry until the stream ends, and close it; return what broke it off, if anything.

        may_deliver: asked before each burst that comes out of the stream; no ends it.
        """
        self._stream = stream
        unpacker = Unpacker()
        try:
            while data := await stream.receive_buffer(RECEIVE_SIZE):
                self.touch()
                for number, datagram in enumerate(unpacker.receive(data)):
                    if number % BURST == 0:
                        if number:
                            await trio.lowlevel.checkpoint()
                        if may_deliver is not None and not await may_deliver():
                            return None
                    self._deliver(datagram)
                    self.received += len(datagram)
        except trio.BrokenResourceError as error:
            return ending_of(error)
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()
        return None

    def touch(self) -> None:
        """Note that it is in use."""
        self.scope.deadline = trio.current_time() + IDLE_TIME


async def relay(sock: socket.socket, stream: MuxStream) -> Association:
    """Exchange datagrams of a connected socket and a stream, until that ends or is idle."""
    association = Association(lambda datagram: send_or_drop(sock, datagram))

    def take(datagram: bytes, _sender: object) -> None:
        association.send(datagram)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_for_ever, sock, take)
        with association.scope:
            await association.carry(stream)
        nursery.cancel_scope.cancel()
    return association


async def receive_for_ever(
    sock: socket.socket, take: Callable[[bytes, tuple[str, int]], None]
) -> NoReturn:
    """Give each datagram and its sender to `take`, which must not wait."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        for _ in range(BURST):
            try:
                datagram, sender = sock.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier datagram, which UDP may lose
            take(datagram, sender)
        await trio.lowlevel.checkpoint()


def send_or_drop(
    sock: socket.socket, datagram: bytes, receiver: tuple[str, int] | None = None
) -> None:
    """Send a datagram, unless that would have to wait or fails."""
    for _ in range(2):  # a failure may be an ICMP error of an earlier datagram (ip(7))
        with contextlib.suppress(OSError):
            if receiver is None:
                sock.send(datagram)
            else:
                sock.sendto(datagram, receiver)
            return
