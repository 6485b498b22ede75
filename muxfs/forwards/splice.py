"""Copy between a TCP connection and a stream of the session, with TCP's semantics.

A FIN crosses as a FIN, each direction by itself; a reset crosses as a reset;
what was written before a close arrives. Each direction is one task, and ends as
one of `End`; `_settle` says what becomes of both sides then.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.forwards.tcp import Buffer, Connection

SMALLEST_READ = 64 << 10
LARGEST_READ = 1 << 20
"""As much as one batch takes: 256 KiB made four batches of it, and cost a third of the speed."""
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


@attrs.define
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
            nursery.start_soon(_up, connection, stream, transfer, nursery.cancel_scope)
            await _down(connection, stream, transfer, nursery.cancel_scope)
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


async def _down(
    connection: Connection, stream: Stream, transfer: Transfer, both: trio.CancelScope
) -> None:
    def sink(data: Buffer) -> Buffer:
        left = connection.send_now(data)
        transfer.received += len(data) - len(left)
        return left

    try:
        while data := await stream.receive_buffer(LARGEST_READ, sink):
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
        both.cancel()
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
