"""Copy between a TCP connection and a stream of the session, with TCP's semantics.

A FIN crosses as a FIN, each direction by itself; a reset crosses as a reset;
what was written before a close arrives. Each direction ends as one of `End`; `_settle` says
what becomes of both sides then. The one out of the stream gets a task of its own only where
the connection does not take all at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from muxfs.core.wire import DEFAULT_MAX_BATCH, Code
from muxfs.forwards.tcp import Buffer, Connection

SMALLEST_READ = 64 << 10
LARGEST_READ = DEFAULT_MAX_BATCH
"""As much as one batch takes: of a quarter of that four batches were made, for a third of the
speed."""
LEAST_WEIGHT = LARGEST_READ // 64
"""What a small read counts for, so that a client of tiny messages lets others run, too."""


class Stream(Protocol):
    """What is asked of a stream; `muxfs.MuxStream` has it."""

    @property
    def turn(self) -> int:
        """Bytes worth sending at once."""

    def send_now(self, data: bytes) -> bool:
        """Send without waiting, if there is room; whether it was sent. Raises as `send_all`."""

    async def send_all(self, data: Buffer) -> None:
        """Send; raises trio.BrokenResourceError once the far side reads no more."""

    def send_eof_now(self) -> bool:
        """End the sending direction cleanly without waiting; whether that could be done."""

    async def send_eof(self) -> None:
        """End the sending direction cleanly. Raises as `send_all`."""

    def feed(self, sink: Callable[[Buffer], Buffer], overflow: Callable[[], None]) -> bool:
        """Give what comes to the sink, and b"" at a clean end, without a task; whether it can.

        `overflow` is called once what comes is for `receive_buffer` instead.
        """

    def stop_feeding(self) -> None:
        """Call neither of them any more."""

    async def receive_buffer(
        self, max_bytes: int, sink: Callable[[Buffer], Buffer] | None = None
    ) -> Buffer:
        """Receive; b"" at a clean end, trio.BrokenResourceError after a reset.

        `sink` may be given small pieces as soon as they come; it returns what it did not take.
        """

    def close_now(self) -> bool:
        """Close without waiting; whether that could be done."""

    async def aclose(self) -> None:
        """Close; what was sent still arrives."""

    async def abort(self, code: Code = Code.CANCELLED, reason: str = "") -> None:
        """Give up both directions; the far side sees a reset, never a clean end."""


class End(enum.Enum):
    """How one direction ended."""

    RUNNING = "running"
    CLEAN = "clean"  # the end of file was passed on
    STOPPED = "stopped"  # the receiving side takes no more; the other direction goes on
    FAILED = "failed"  # the sending side was reset: both directions are over


@attrs.define(eq=False)
class Transfer:
    """What a splice has carried, and how it ended."""

    sent: int = 0
    """Bytes from the TCP connection into the stream."""
    received: int = 0
    """Bytes out of the stream into the TCP connection."""
    up: End = End.RUNNING
    """The direction into the stream."""
    down: End = End.RUNNING
    """The direction out of the stream."""
    error: BaseException | None = None
    """What ended it, unless both directions ended cleanly."""
    scope: trio.CancelScope | None = None
    """Around both directions, while they run."""

    def cancel(self) -> None:
        """Reset both sides, if they are still carried."""
        if self.scope is not None:
            self.scope.cancel()

    @property
    def clean(self) -> bool:
        """Whether both directions ended with an end of file."""
        return self.up is End.CLEAN and self.down is End.CLEAN


async def splice(connection: Connection, stream: Stream, transfer: Transfer) -> None:
    """Copy in both directions until both have ended; then both sides are closed.

    Cancellation resets both sides. Failures of either side are not raised, they
    are in `transfer`.
    """
    try:
        async with trio.open_nursery() as nursery:
            transfer.scope = nursery.cancel_scope
            down = _Down(connection, stream, transfer, nursery)
            try:
                down.begin()
                await _up(connection, stream, transfer, nursery.cancel_scope)
                await down.wait()
            finally:
                stream.stop_feeding()
    finally:
        # this way costs a scope and a turn of the loop less
        if transfer.clean and stream.close_now():
            connection.close()
        else:
            with trio.CancelScope(shield=True):
                await _settle(connection, stream, transfer)


async def _up(
    connection: Connection, stream: Stream, transfer: Transfer, both: trio.CancelScope
) -> None:
    size, in_a_row = SMALLEST_READ, 0
    try:
        while data := await connection.receive(size):
            # as long as the socket has more, no other task runs: one large write, not many
            in_a_row += max(len(data), LEAST_WEIGHT)
            most = stream.turn
            if in_a_row >= most or not stream.send_now(data):
                await stream.send_all(data)
                in_a_row = 0
            transfer.sent += len(data)
            size = min(most, _next_size(size, len(data)))
        if not stream.send_eof_now():
            await stream.send_eof()
    except OSError as error:
        transfer.up, transfer.error = End.FAILED, error
        both.cancel()
    except trio.BrokenResourceError as error:
        # What the far side had sent before it stopped reading must still arrive:
        # if the whole stream is broken, the other direction finds out by itself.
        transfer.up = End.STOPPED
        transfer.error = transfer.error or error
    else:
        transfer.up = End.CLEAN


class _Down:
    """The direction out of the stream: without a task as long as all goes on at once."""

    def __init__(
        self, connection: Connection, stream: Stream, transfer: Transfer, nursery: trio.Nursery
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._transfer = transfer
        self._nursery = nursery
        self._has_task = False
        self._lot = trio.lowlevel.ParkingLot()

    def begin(self) -> None:
        """Send on what is here, and all that comes."""
        if not self._stream.feed(self._take, self._begin_task):
            self._begin_task()

    async def wait(self) -> None:
        """Wait until it has ended, or has a task, for which the nursery waits."""
        while self._transfer.down is End.RUNNING and not self._has_task:
            await self._lot.park()

    def _take(self, data: Buffer) -> Buffer:
        if not data:
            self._connection.send_eof()
            self._transfer.down = End.CLEAN
            self._lot.unpark_all()
            return b""
        left = self._connection.send_now(data)
        self._transfer.received += len(data) - len(left)
        return left

    def _begin_task(self) -> None:
        self._has_task = True
        self._lot.unpark_all()
        self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        connection, transfer = self._connection, self._transfer
        try:
            while data := await self._stream.receive_buffer(LARGEST_READ, self._take):
                await connection.send_all(data)
                transfer.received += len(data)
            connection.send_eof()
        except OSError as error:
            # The connection is dead, so the other direction ends soon; what its peer
            # had sent before is still in the kernel, and must cross first.
            transfer.down = End.STOPPED
            transfer.error = transfer.error or error
        except trio.BrokenResourceError as error:
            transfer.down, transfer.error = End.FAILED, error
            self._nursery.cancel_scope.cancel()
        else:
            transfer.down = End.CLEAN


def _next_size(size: int, received: int) -> int:
    """Read in large pieces from a connection that keeps its buffer full, in small ones else."""
    if received == size:
        return min(2 * size, LARGEST_READ)
    return size if received >= size // 4 else max(size // 2, SMALLEST_READ)


async def _settle(connection: Connection, stream: Stream, transfer: Transfer) -> None:
    if transfer.up is End.CLEAN and transfer.down in {End.CLEAN, End.STOPPED}:
        await stream.aclose()
        connection.close()
    elif transfer.up is End.STOPPED and transfer.down is End.CLEAN:
        await stream.aclose()
        await connection.finish()
    else:
        connection.reset()
        failed = isinstance(transfer.error, OSError)
        await stream.abort(Code.BROKEN if failed else Code.CANCELLED)
