"""One stream and one echo over a simulated filesystem, by the time that an operation takes.

    python -m bench.latency [--latency 1,5,20,50] [--bandwidth 0,100,20]

Whole sessions on mailboxes in memory, in simulated time: how fast or busy the machine is
does not matter (how trio orders tasks does, by some percent). Each operation takes the
latency, and its bytes share the bandwidth (MB/s, each way; 0: no limit). The bound is the
ring by four operations (write, read, and the same for the ack), or the bandwidth,
whichever is less.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Final

import attrs
import trio
from trio.testing import MockClock

import muxfs
from muxfs.testing import MemoryFilesystem

MIB: Final = 1 << 20
RING: Final = 16 * MIB
ECHOES: Final = 20
ECHO: Final = "echo"
BULK: Final = "bulk"


@attrs.define
class Figures:
    """What came of one run. Seconds, and bytes a second."""

    echo: float = 0.0
    echo_under_bulk: float = 0.0
    echo_under_bulk_most: float = 0.0
    rate: float = 0.0
    operations: float = 0.0
    """A second, both sides."""


async def serve(listen: muxfs.Session) -> None:
    """Echo, or take everything: as the stream's target says."""

    async def handle(stream: muxfs.MuxStream) -> None:
        while data := await stream.receive_some():
            if stream.target == ECHO:
                await stream.send_all(data)

    await trio.serve_listeners(handle, [listen.listen()])


async def echo(stream: muxfs.MuxStream) -> list[float]:
    """Return the times of some round trips of one byte."""
    times = []
    for _ in range(ECHOES):
        start = trio.current_time()
        await stream.send_all(b"x")
        await stream.receive_some(1)
        times.append(trio.current_time() - start)
        await trio.sleep(0.013)
    return times


async def run(latency: float, bandwidth: float | None, figures: Figures) -> None:
    """Measure both, at rest and at the same time."""
    fs = MemoryFilesystem(latency=latency, bandwidth=bandwidth)
    seconds = 3 + 100 * latency
    async with (
        muxfs.open_session("", role="listen", storage=fs.storage("l", "d")) as listen,
        muxfs.open_session("", role="dial", storage=fs.storage("d", "l")) as dial,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(serve, listen)
        small = await dial.open_stream(ECHO)
        figures.echo = statistics.median(await echo(small))
        large = await dial.open_stream(BULK)

        async def send() -> None:
            while True:
                await large.send_all(bytes(MIB))

        nursery.start_soon(send)
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


def numbers(text: str) -> list[float]:
    """Parse a list of numbers."""
    return [float(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--latency", type=numbers, default=[1, 5, 20, 50], help="in ms")
    parser.add_argument("--bandwidth", type=numbers, default=[0, 100, 20], help="in MB/s; 0: any")
    options = parser.parse_args(arguments)
    print("operation  bandwidth     stream  of the bound      echo   under bulk     most  ops/s")
    for latency in options.latency:
        for megabytes in options.bandwidth:
            bandwidth = megabytes * 1e6 or None
            found = measure(latency / 1000, bandwidth)
            share = found.rate / bound(latency / 1000, bandwidth)
            link = f"{megabytes:.0f} MB/s" if bandwidth else "any"
            print(
                f"{latency:6.0f} ms {link:>10} {found.rate / 1e6:6.0f} MB/s {share:13.0%} "
                f"{1000 * found.echo:6.0f} ms {1000 * found.echo_under_bulk:9.0f} ms "
                f"{1000 * found.echo_under_bulk_most:5.0f} ms {found.operations:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
