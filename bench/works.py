"""What is measured: each work is a function of a peer that gives named figures."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from bench import endpoints
from bench.peers import Running

Figures = Mapping[str, float]


@attrs.frozen
class Sizes:
    """How much of each work is done."""

    rounds: int = 5
    stream: int = 1 << 30
    digest: int = 64 << 20
    echoes: int = 5000
    connections: int = 5000
    loaded_echoes: int = 1000
    idle_seconds: float = 20.0


QUICK = Sizes(
    rounds=1,
    stream=32 << 20,
    digest=8 << 20,
    echoes=300,
    connections=200,
    loaded_echoes=100,
    idle_seconds=2.0,
)


@attrs.frozen
class Work:
    """One thing to measure."""

    name: str
    run: Callable[[Running, Sizes], Figures]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _times(prefix: str, seconds: Sequence[float]) -> dict[str, float]:
    return {
        f"{prefix} p50 [us]": statistics.median(seconds) * 1e6,
        f"{prefix} p99 [us]": percentile(seconds, 0.99) * 1e6,
        f"{prefix} max [us]": max(seconds) * 1e6,
    }


def up(peer: Running, sizes: Sizes) -> Figures:
    """One stream, from the client to the service."""
    return {"up [MB/s]": sizes.stream / endpoints.upload(peer.port, sizes.stream) / 1e6}


def down(peer: Running, sizes: Sizes) -> Figures:
    """One stream, from the service to the client."""
    return {"down [MB/s]": sizes.stream / endpoints.download(peer.port, sizes.stream) / 1e6}


def digests(peer: Running, sizes: Sizes) -> Figures:
    """Random bytes there and back at once, with a sha256 at both ends."""
    block = random.Random(0).randbytes(endpoints.BUFFER)
    right = endpoints.check_digests(peer.port, sizes.digest, block)
    return {"sha256 differs": float(not right)}


def echo(peer: Running, sizes: Sizes) -> Figures:
    """Round trips of one byte on a warm connection."""
    with endpoints.open_echo(peer.port) as round_trip:
        for _ in range(100):
            round_trip()
        return _times("echo", [round_trip() for _ in range(sizes.echoes)])


def connections(peer: Running, sizes: Sizes) -> Figures:
    """Short connections, one after the other: connect, echo of one byte, close."""
    seconds, failed = [], 0
    start = time.perf_counter()
    for _ in range(sizes.connections):
        try:
            seconds.append(endpoints.short_connection(peer.port))
        except (OSError, endpoints.Truncated):
            failed += 1
    figures = _times("connection", seconds or [float("inf")])
    figures["connections [1/s]"] = sizes.connections / (time.perf_counter() - start)
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
            seconds = [round_trip() for _ in range(sizes.loaded_echoes)]
            rate, _ = bulk.communicate(timeout=endpoints.TIMEOUT)
        figures = _times(f"echo under bulk {direction}", seconds)
        figures[f"bulk {direction} meanwhile [MB/s]"] = float(rate) / 1e6
        return figures

    return run


WORKS = (
    Work("sha256 both ways", digests),
    Work("one stream up", up),
    Work("one stream down", down),
    Work("echo of 1 byte", echo),
    Work("short connections", connections),
    Work("echo under a bulk stream down", loaded_echo("down")),
    Work("echo under a bulk stream up", loaded_echo("up")),
)


# What it costs to do nothing, from /proc; for all peers at the same time.


def _family(roots: Sequence[int]) -> set[int]:
    """Return processes and their descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    family, size = set(roots), -1
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family & set(parents)


def _fields(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _usage(processes: Sequence[int]) -> dict[str, float]:
    """Return what a peer's processes have used so far, and their memory."""
    used = dict.fromkeys(("cpu", "reads and writes", "wake-ups", "memory"), 0.0)
    for pid in _family(processes):
        process = Path(f"/proc/{pid}")
        times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        used["cpu"] += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        io = _fields(process / "io")
        used["reads and writes"] += int(io["syscr"]) + int(io["syscw"])
        used["memory"] += int(_fields(process / "status")["VmRSS"].split()[0]) * 1024
        for task in (process / "task").iterdir():
            used["wake-ups"] += int(_fields(task / "status")["voluntary_ctxt_switches"])
    return used


def idle(peers: Sequence[Running], seconds: float) -> dict[str, Figures]:
    """Leave all peers alone for a while; return what each has used of the machine."""
    time.sleep(min(5.0, seconds))  # until the last traffic is forgotten
    measured = [peer for peer in peers if peer.processes]
    start = time.perf_counter()
    before = {peer.name: _usage(peer.processes) for peer in measured}
    time.sleep(seconds)
    after = {peer.name: _usage(peer.processes) for peer in measured}
    elapsed = time.perf_counter() - start
    figures: dict[str, Figures] = {}
    for name, used in after.items():
        rates = {key: (value - before[name][key]) / elapsed for key, value in used.items()}
        figures[name] = {
            "idle CPU [%]": rates["cpu"] * 100,
            "idle read+write calls [1/s]": rates["reads and writes"],
            "idle voluntary switches [1/s]": rates["wake-ups"],
            "memory of both sides [MiB]": used["memory"] / 2**20,
        }
    return figures
