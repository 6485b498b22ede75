"""What a session is measured by: round trips, bulk and short streams, and who serves them.

A stream's target says what its far side is to do.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import trio

from muxfs.session import Session
from muxfs.stream import MuxStream

ECHO: Final = "echo"
SINK: Final = "sink"
SOURCE: Final = "source"
BLOCK: Final = 1 << 20
WARM: Final = 0.2
"""Share of a transfer's time in which it reaches its speed."""
PARTS: Final = 3
"""Of the rest, so that what else the host does in one of them does not count."""


@attrs.frozen
class Times:
    """Of things done one after the other, in seconds."""

    count: int
    p50: float
    p99: float
    most: float
    operations: float
    """Filesystem operations of this side for each."""

    @classmethod
    def of(cls, seconds: Sequence[float], operations: int) -> Times:
        """Sum them up; there is one at least."""
        ordered = sorted(seconds)
        count = len(ordered)
        p99 = ordered[min(count - 1, count * 99 // 100)]
        each = operations / count
        return cls(count, statistics.median(ordered), p99, ordered[-1], each)


async def serve(session: Session) -> None:
    """Do for each stream what its target says, until cancelled."""
    await trio.serve_listeners(serve_one, [session.listen()])


async def serve_one(stream: MuxStream) -> None:
    """Do what the stream's target says, until it ends."""
    try:
        if stream.target == SOURCE:
            while True:
                await stream.send_all(bytes(BLOCK))
        while data := await stream.receive_some():
            if stream.target == ECHO:
                await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # that is how a transfer is ended


async def round_trip(stream: MuxStream) -> float:
    """Have one byte echoed; return the seconds."""
    start = trio.current_time()
    await stream.send_all(b"x")
    await stream.receive_some(1)
    return trio.current_time() - start


async def echoes(session: Session, seconds: float) -> Times:
    """Do round trips of one byte on a warm stream for so long; one at least."""
    stream = await session.open_stream(ECHO)
    await round_trip(stream)
    times: list[float] = []
    before, end = session.stats().operations, trio.current_time() + seconds
    while not times or trio.current_time() < end:
        times.append(await round_trip(stream))
    await stream.aclose()
    return Times.of(times, session.stats().operations - before)


async def short_streams(session: Session, seconds: float) -> Times:
    """Open a stream, have one byte echoed, close it, for so long; once at least."""
    times: list[float] = []
    before, end = session.stats().operations, trio.current_time() + seconds
    while not times or trio.current_time() < end:
        start = trio.current_time()
        stream = await session.open_stream(ECHO)
        await round_trip(stream)
        await stream.aclose()
        times.append(trio.current_time() - start)
    return Times.of(times, session.stats().operations - before)


@contextlib.asynccontextmanager
async def bulk(session: Session, target: str) -> AsyncIterator[None]:
    """Keep one bulk stream running: to a SINK over there, or from a SOURCE."""
    stream = await session.open_stream(target)

    async def move() -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # what is measured finds out, too
            while True:
                if target == SINK:
                    await stream.send_all(bytes(BLOCK))
                else:
                    await stream.receive_some()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            yield
            nursery.cancel_scope.cancel()
    finally:
        # not `aclose`: what is still queued would have to arrive first
        with trio.CancelScope(shield=True):
            await stream.abort()


async def rate(session: Session, target: str, seconds: float) -> float:
    """Return the bytes a second of one bulk stream, counted where they arrive or are acknowledged.

    Those of the ring, frames included. The median of `PARTS` of the time, after the start.
    """

    def moved() -> int:
        stats = session.stats()
        return stats.bytes_written - stats.in_flight if target == SINK else stats.bytes_read

    rates = []
    async with bulk(session, target):
        await trio.sleep(WARM * seconds)
        for _ in range(PARTS):
            start, before = trio.current_time(), moved()
            await trio.sleep((1 - WARM) * seconds / PARTS)
            rates.append((moved() - before) / (trio.current_time() - start))
    return statistics.median(rates)
