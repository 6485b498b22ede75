"""Works of one connection: each is a function of a peer that gives named figures."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from bench import endpoints
from bench.peers import Running
from bench.sizes import Sizes

Figures = Mapping[str, float]


@attrs.frozen
class Work:
    """One thing to measure."""

    name: str
    run: Callable[[Running, Sizes], Figures]
    streams: int = 1
    """At once; peers that cannot bear as many are left out."""
    bulk: bool = False
    """Whether it is one bulk stream and nothing else."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def times(prefix: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return the figures of the times of one kind."""
    return {
        f"{prefix} p50 [us]": statistics.median(seconds) * 1e6,
        f"{prefix} p99 [us]": percentile(seconds, 0.99) * 1e6,
        f"{prefix} max [us]": max(seconds) * 1e6,
    }


def up(peer: Running, sizes: Sizes) -> Figures:
    """One stream, from the client to the service."""
    size = peer.part(sizes.stream)
    return {"one stream up [MB/s]": size / endpoints.upload(peer.port, size) / 1e6}


def down(peer: Running, sizes: Sizes) -> Figures:
    """One stream, from the service to the client."""
    size = peer.part(sizes.stream)
    return {"one stream down [MB/s]": size / endpoints.download(peer.port, size) / 1e6}


def digests(peer: Running, sizes: Sizes) -> Figures:
    """Random bytes there and back at once, with a sha256 at both ends."""
    block = random.Random(0).randbytes(endpoints.BUFFER)
    right = endpoints.check_digests(peer.port, peer.part(sizes.digest), block)
    return {"sha256 differs": float(not right)}


def echo(peer: Running, sizes: Sizes) -> Figures:
    """Round trips of one byte on a warm connection."""
    with endpoints.open_echo(peer.port) as round_trip:
        for _ in range(peer.part(100)):
            round_trip()
        return times("echo", [round_trip() for _ in range(peer.part(sizes.echoes))])


def connections(peer: Running, sizes: Sizes) -> Figures:
    """Short connections, one after the other: connect, echo of one byte, close."""
    seconds, failed, count = [], 0, peer.part(sizes.connections)
    start = time.perf_counter()
    for _ in range(count):
        try:
            seconds.append(endpoints.short_connection(peer.port))
        except (OSError, endpoints.Truncated):
            failed += 1
    figures = times("connection", seconds or [float("inf")])
    figures["connections [1/s]"] = count / (time.perf_counter() - start)
    figures["connections failed"] = failed
    return figures


def loaded_echo(direction: str) -> Callable[[Running, Sizes], Figures]:
    """Make a work: echoes while one bulk stream runs in `direction`."""

    def run(peer: Running, sizes: Sizes) -> Figures:
        argv = [sys.executable, "-m", "bench.endpoints", "bulk", str(peer.port), direction]
        with (
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bulk,
            endpoints.open_echo(peer.port) as round_trip,
        ):
            assert bulk.stdout is not None
            if bulk.stdout.readline() != b"warm\n":
                raise endpoints.Truncated("the bulk stream ended")
            seconds = [round_trip() for _ in range(peer.part(sizes.loaded_echoes))]
            rate, _ = bulk.communicate(timeout=endpoints.TIMEOUT)
        figures = times(f"echo under bulk {direction}", seconds)
        figures[f"bulk {direction} meanwhile [MB/s]"] = float(rate) / 1e6
        return figures

    return run


WORKS = (
    Work("sha256 both ways", digests),
    Work("one stream up", up, bulk=True),
    Work("one stream down", down, bulk=True),
    Work("echo of 1 byte", echo),
    Work("short connections", connections),
    Work("echo under a bulk stream down", loaded_echo("down")),
    Work("echo under a bulk stream up", loaded_echo("up")),
)
