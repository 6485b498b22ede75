"""One stream and one echo over a simulated filesystem, by the time that an operation takes.

Whole sessions on mailboxes in memory, in simulated time: how fast or busy the machine is
does not matter; how trio orders tasks does, by 10 to 15 %, so that these are medians. Each
operation takes the latency, and its bytes share the bandwidth (each way). The bound is the
ring by four operations (write, read, and the same for the ack), or the bandwidth,
whichever is less. Without latency and bandwidth nothing takes time, and so bulk has no rate.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs
import trio
from trio.testing import MockClock

import muxfs
from bench.report import Curves
from bench.simulations import run_all
from bench.sizes import Sizes
from muxfs import workload
from muxfs.testing import MemoryFilesystem

MIB: Final = 1 << 20
RING: Final = 16 * MIB
ECHOES: Final = 20
SHARES: Final = "Throughput, share of ring / round trip or of the link"
X: Final = "ms an operation"


@attrs.frozen
class Server:
    """What a simulated filesystem is like."""

    latency: float
    """Seconds an operation."""
    bandwidth: float
    """Bytes a second; 0: any."""

    def __str__(self) -> str:
        return f"{1000 * self.latency:g} ms an operation, {self.link}"

    @property
    def link(self) -> str:
        """The bandwidth in words."""
        if self.bandwidth:
            return f"link of {self.bandwidth / 1e6:.0f} MB/s"
        return "no bound of the link"

    @property
    def bound(self) -> float | None:
        """What the ring and the link let through, in bytes a second."""
        bounds = [RING / (4 * self.latency)] if self.latency else []
        bounds += [self.bandwidth] if self.bandwidth else []
        return min(bounds, default=None)


@attrs.define
class Figures:
    """What came of one run. Seconds, and bytes a second; those of bulk only where it has a rate."""

    echo: float = 0.0
    echo_under_bulk: float | None = None
    rate: float | None = None
    operations: float | None = None
    """A second, both sides."""


async def echo(stream: muxfs.MuxStream) -> list[float]:
    """Return the times of some round trips of one byte."""
    times = []
    for _ in range(ECHOES):
        times.append(await workload.round_trip(stream))
        await trio.sleep(0.013)
    return times


async def run(server: Server, figures: Figures) -> None:
    """Measure both, at rest and at the same time."""
    fs = MemoryFilesystem(latency=server.latency, bandwidth=server.bandwidth or None)
    async with (
        muxfs.open_session("", role="listen", storage=fs.storage("l", "d")) as listen,
        muxfs.open_session("", role="dial", storage=fs.storage("d", "l")) as dial,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(workload.serve, listen)
        small = await dial.open_stream(workload.ECHO)
        figures.echo = statistics.median(await echo(small))
        if server.bound is not None:
            async with workload.bulk(dial, workload.SINK):
                warm = 150 * server.latency + (2.0 if server.bandwidth else 0.5)
                await beside_bulk(listen, dial, small, warm, figures)
        nursery.cancel_scope.cancel()


async def beside_bulk(
    listen: muxfs.Session,
    dial: muxfs.Session,
    small: muxfs.MuxStream,
    warm: float,
    figures: Figures,
) -> None:
    """Measure the bulk that is under way, and echoes beside it."""
    await trio.sleep(warm)
    start, before = trio.current_time(), listen.stats()
    operations = before.operations + dial.stats().operations
    figures.echo_under_bulk = statistics.median(await echo(small))
    await trio.sleep(warm)
    elapsed, after = trio.current_time() - start, listen.stats()
    figures.rate = (after.bytes_read - before.bytes_read) / elapsed
    figures.operations = (after.operations + dial.stats().operations - operations) / elapsed


def measure(server: Server) -> Figures:
    """Run it in simulated time."""
    figures = Figures()
    trio.run(run, server, figures, clock=MockClock(autojump_threshold=0))
    return figures


def middle(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure."""
    columns = zip(*map(attrs.astuple, runs), strict=True)
    figures: list[Any] = [
        None if None in values else statistics.median(values) for values in columns
    ]
    return Figures(*figures)


def scaled(values: Iterable[float | None], factor: float) -> list[float | None]:
    """Multiply those that there are."""
    return [None if value is None else value * factor for value in values]


def curves(sizes: Sizes, progress: Callable[[str], None]) -> list[Curves]:
    """Measure all; throughput with its bounds, and the echoes."""
    servers = [Server(*pair) for pair in itertools.product(sizes.latencies, sizes.bandwidths)]
    outcomes = run_all(measure, servers * sizes.simulations, progress)
    found = {
        server: middle(outcomes[number :: len(servers)]) for number, server in enumerate(servers)
    }
    at = [1000 * latency for latency in sizes.latencies]
    rates = Curves("Throughput of one stream", X, "MB/s", at)
    shares = Curves(SHARES, X, "share", at)
    echoes = Curves("Echo of 1 byte", X, "ms", at)
    operations = Curves("Operations of both sides under a bulk stream", X, "1/s", at)
    for bandwidth in sizes.bandwidths:
        column = [Server(latency, bandwidth) for latency in sizes.latencies]
        link, figures = column[0].link, [found[server] for server in column]
        rates.series[link] = scaled((each.rate for each in figures), 1e-6)
        rates.series[f"{link}: bound"] = scaled((server.bound for server in column), 1e-6)
        rates.bounds |= {f"{link}: bound"}
        shares.series[link] = [
            each.rate / server.bound if each.rate and server.bound else None
            for each, server in zip(figures, column, strict=True)
        ]
        if not bandwidth:
            echoes.series["idle"] = scaled((each.echo for each in figures), 1000)
        echoes.series[f"under bulk, {link}"] = scaled((f.echo_under_bulk for f in figures), 1000)
        operations.series[link] = [each.operations for each in figures]
    return [rates, shares, echoes, operations]
