"""The tunnel on real network filesystems, against the least that two files can do.

    python -m bench.network [--quick] [--rounds N] [--json FILE] LAB...

Each LAB is one of `python -m tests.lab`, such as nfs4.2: a server and two clients with caches
of their own (docs/lab.md; needs root). The bare works of `bench.bare` and the tunnel's take
turns, so that a noisy moment hits both; the machine's cores are shared by three kernels and all
processes, so that only ratios mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from bench import report
from tests.lab.catalogue import lab as find_lab
from tests.lab.ends import Ends, open_ends
from tests.lab.lab import Lab

PAUSES = ("0", "0.0005")
BLOCKS = ("1024", "4096")
"""KiB"""
SETTLE = 20.0
"""Seconds after which the polls of an idle tunnel are at their slowest."""

ECHO = "echo of 1 byte, p50 [ms]"
BARE_ECHO = "bare ping-pong, p50 [ms]"
STREAM = "stream of {} MiB [MB/s]"
BARE_STREAM = "bare stream of {} MiB [MB/s]"


@attrs.frozen
class Sizes:
    """How much of each work is done."""

    turns: int = 5
    echoes: int = 500
    streams: Sequence[int] = (512, 64)
    """MiB: one at its speed, and one of which the start is a good part."""
    idle: float = 60.0
    rounds: int = 100_000


QUICK = Sizes(turns=1, echoes=100, streams=(64, 16), idle=10.0, rounds=500)

Figures = dict[str, float]


@attrs.define(eq=False)
class Bench:
    """One lab, with a tunnel at work."""

    lab: Lab
    ends: Ends
    sizes: Sizes
    port: int
    """Through the tunnel to `bench.endpoints serve`."""
    target: int
    """Of that service, where it runs."""
    _pairs: int = 0

    async def run(self) -> Figures:
        """Do all works; return what stands in the table."""
        runs = []
        for turn in range(self.sizes.turns):
            say(f"{self.lab.spec}: turn {turn + 1} of {self.sizes.turns}")
            runs.append(await self._turn())
        figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        figures["echo over TCP alone on one client, p50 [ms]"] = await self._tcp_echo()
        figures["echo / bare (goals: at most 2, 1.5)"] = figures[ECHO] / figures[BARE_ECHO]
        for size in self.sizes.streams:
            figures[f"stream of {size} MiB / bare (goals: at least 0.7, 0.8)"] = (
                figures[STREAM.format(size)] / figures[BARE_STREAM.format(size)]
            )
        return figures | await self._idle() | await self._mixed()

    async def _turn(self) -> Figures:
        """Do each work once, the bare one and the tunnel's after each other."""
        figures = {BARE_ECHO: min([await self._bare_echo(pause) for pause in PAUSES])}
        echoes = await self._endpoints("echoes", self.sizes.echoes, "steadily")
        figures[ECHO] = echoes["p50 ms"]
        for size in self.sizes.streams:
            bare = max([await self._bare_stream(size, block) for block in BLOCKS])
            figures[BARE_STREAM.format(size)] = bare
            upload = await self._endpoints("upload", size << 20)
            figures[STREAM.format(size)] = upload["MB/s"]
        return figures

    async def _tcp_echo(self) -> float:
        """Return what each end of a tunnel adds to an echo at the least."""
        argv = (sys.executable, "-m", "bench.endpoints", "echoes", str(self.target))
        said = await self.ends.dialler.run(*argv, str(self.sizes.echoes), "steadily")
        return float(json.loads(said.output)["p50 ms"])

    async def _bare_echo(self, pause: str) -> float:
        return (await self._bare("pingpong", str(self.sizes.echoes), pause))["p50 ms"]

    async def _bare_stream(self, mebibytes: int, block: str) -> float:
        return (await self._bare("stream", str(mebibytes), block))["MB/s"]

    async def _bare(self, *arguments: str) -> Figures:
        """Run a pair of `bench.bare` in a directory of its own."""
        self._pairs += 1
        directory = str(self.ends.directory.with_name(f"bare-{self._pairs}"))
        first, second = self.lab.clients
        await first.run("mkdir", directory)
        await first.run("touch", f"{directory}/first", f"{directory}/second")
        work, *rest = arguments
        argv = (sys.executable, "-m", "bench.bare", work)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.run, *argv, "second", directory, *rest)
            said = await first.run(*argv, "first", directory, *rest)
        await first.run("rm", "-r", directory)
        figures: Figures = json.loads(said.output)
        return figures

    async def _endpoints(self, work: str, *arguments: str | int, within: float = 600) -> Figures:
        argv = (sys.executable, "-m", "bench.endpoints", work, str(self.port))
        said = await self.ends.listener.run(*argv, *map(str, arguments), within=within)
        figures: Figures = json.loads(said.output)
        return figures

    async def _idle(self) -> Figures:
        say(f"{self.lab.spec}: idle for {SETTLE + self.sizes.idle:.0f} s")
        await trio.sleep(SETTLE)
        before = [await self.lab.operations(client) for client in self.lab.clients]
        await trio.sleep(self.sizes.idle)
        after = [await self.lab.operations(client) for client in self.lab.clients]
        asked = [sum(a.values()) - sum(b.values()) for a, b in zip(after, before, strict=True)]
        return {
            f"idle, {side} [operations/s] (at most 2)": count / self.sizes.idle
            for side, count in zip(("listen", "dial"), asked, strict=True)
        }

    async def _mixed(self) -> Figures:
        rounds = self.sizes.rounds
        say(f"{self.lab.spec}: {rounds} rounds at mixed pauses")
        done = await self._endpoints("echoes", rounds, "mixed", within=rounds)
        return {
            "rounds at mixed pauses": done["rounds"],
            "of them stuck or wrong (none)": rounds - done["rounds"],
            "slowest of them [ms]": done["max ms"],
        }


async def measure(name: str, sizes: Sizes, place: Path) -> Figures:
    """Bring a lab up, measure in it, and end it."""
    lab = find_lab(name, place / name)
    say(f"{name}: bringing it up")
    await lab.up()
    try:
        logs = place / f"{name}-logs"
        logs.mkdir()
        with (logs / "ends").open("w") as log, contextlib.redirect_stdout(log):
            return await _measure_in(lab, sizes, logs)
    finally:
        lab.down()


async def _measure_in(lab: Lab, sizes: Sizes, logs: Path) -> Figures:
    """Start the tunnel and the service behind it, and measure."""
    async with open_ends(lab, lab.clients[0].path / "tunnel", logs) as ends:
        service = await ends.dialler.start(
            ends.nursery,
            *(sys.executable, "-m", "bench.endpoints", "serve"),
            errors=logs / "service",
        )
        target = int(await anext(aiter(service.stdout)))
        listen, _ = await ends.connect(target)
        return await Bench(lab, ends, sizes, await listen.port(), target).run()


def say(words: str) -> None:
    """Tell what is being done."""
    print(words, file=sys.stderr, flush=True)


def table(results: Mapping[str, Figures]) -> str:
    """Lay all labs' figures out side by side."""
    names = list(results)
    rows = [["", *names]]
    for figure in results[names[0]]:
        values = [results[name][figure] for name in names]
        rows.append([figure, *(f"{v:.0f}" if v == int(v) else f"{v:.3g}" for v in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.network", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("labs", nargs="+", metavar="LAB")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work at all")
    parser.add_argument("--rounds", type=int, help="echoes at mixed pauses (100000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(arguments)
    sizes = QUICK if options.quick else Sizes()
    if options.rounds:
        sizes = attrs.evolve(sizes, rounds=options.rounds)
    machine: Mapping[str, Any] = report.machine()
    with tempfile.TemporaryDirectory(prefix="muxfs-bench-") as place:
        results = {name: trio.run(measure, name, sizes, Path(place)) for name in options.labs}
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"\n{table(results)}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "labs": results}, indent=1) + "\n")
    wrong = "of them stuck or wrong (none)"
    return 1 if any(figures[wrong] for figures in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
