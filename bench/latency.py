"""One stream and one echo over a simulated filesystem, by the time that an operation takes.

Whole sessions on mailboxes in memory, in simulated time: how fast or busy the machine is
does not matter (how trio orders tasks does, by some percent). Each operation takes the
latency, and its bytes share the bandwidth (MB/s, each way; 0: no limit). The bound is the
ring by four operations (write, read, and the same for the ack), or the bandwidth,
whichever is less.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import Final

import attrs
import trio
from trio.testing import MockClock

import muxfs
from bench.report import Curves
from bench.sizes import Sizes
from muxfs import workload
from muxfs.testing import MemoryFilesystem

MIB: Final = 1 << 20
RING: Final = 16 * MIB
ECHOES: Final = 20
X: Final = "ms an operation"


@attrs.define
class Figures:
    """What came of one run. Seconds, and bytes a second."""

    echo: float = 0.0
    echo_under_bulk: float = 0.0
    echo_under_bulk_most: float = 0.0
    rate: float = 0.0
    operations: float = 0.0
    """A second, both sides."""


async def echo(stream: muxfs.MuxStream) -> list[float]:
    """Return the times of some round trips of one byte."""
    times = []
    for _ in range(ECHOES):
        times.append(await workload.round_trip(stream))
        await trio.sleep(0.013)
    return times


async def run(latency: float, bandwidth: float | None, figures: Figures) -> None:
    """Measure both, at rest and at the same time."""
    fs = MemoryFilesystem(latency=latency, bandwidth=bandwidth)
    seconds = 2 + 150 * latency
    async with (
        muxfs.open_session("", role="listen", storage=fs.storage("l", "d")) as listen,
        muxfs.open_session("", role="dial", storage=fs.storage("d", "l")) as dial,
        trio.open_nursery() as nursery,
        contextlib.AsyncExitStack() as stack,
    ):
        nursery.start_soon(workload.serve, listen)
        small = await dial.open_stream(workload.ECHO)
        figures.echo = statistics.median(await echo(small))
        await stack.enter_async_context(workload.bulk(dial, workload.SINK))
        await trio.sleep(seconds)
        start, before = trio.current_time(), listen.stats()
        operations = before.operations + dial.stats().operations
        times = await echo(small)
        await trio.sleep(seconds)
        elapsed, after = trio.current_time() - start, listen.stats()
        figures.echo_under_bulk = statistics.median(times)
        figures.echo_under_bulk_most = max(times)
        figures.rate = (after.bytes_read - before.bytes_read) / elapsed
        operations = after.operations + dial.stats().operations - operations
        figures.operations = operations / elapsed
        await stack.aclose()
        nursery.cancel_scope.cancel()


def measure(latency: float, bandwidth: float | None) -> Figures:
    """Run it in simulated time."""
    figures = Figures()
    trio.run(run, latency, bandwidth, figures, clock=MockClock(autojump_threshold=0))
    return figures


def bound(latency: float, bandwidth: float | None) -> float:
    """Return what the ring and the link let through, in bytes a second."""
    ring = RING / (4 * latency)
    return ring if bandwidth is None else min(ring, bandwidth)


def curves(sizes: Sizes, progress: Callable[[str], None]) -> list[Curves]:
    """Measure all; throughput with its bounds, and the echoes."""
    at = [1000 * latency for latency in sizes.latencies]
    rates = Curves("Throughput of one stream", X, "MB/s", at)
    shares = Curves("Throughput, share of ring / round trip or of the link", X, "share", at)
    echoes = Curves("Echo of 1 byte", X, "ms", at)
    operations = Curves("Operations of both sides under a bulk stream", X, "1/s", at)
    for bandwidth in sizes.bandwidths:
        link = f"link of {bandwidth / 1e6:.0f} MB/s" if bandwidth else "no bound of the link"
        found = []
        for latency in sizes.latencies:
            progress(f"simulated filesystem: {1000 * latency:g} ms an operation, {link}")
            found.append(measure(latency, bandwidth or None))
        bounds = [bound(latency, bandwidth or None) for latency in sizes.latencies]
        rates.series[link] = [figures.rate / 1e6 for figures in found]
        rates.series[f"{link}: bound"] = [limit / 1e6 for limit in bounds]
        rates.bounds |= {f"{link}: bound"}
        shares.series[link] = [f.rate / limit for f, limit in zip(found, bounds, strict=True)]
        if not bandwidth:
            echoes.series["idle"] = [1000 * figures.echo for figures in found]
        echoes.series[f"under bulk, {link}"] = [1000 * f.echo_under_bulk for f in found]
        operations.series[link] = [figures.operations for figures in found]
    return [rates, shares, echoes, operations]
