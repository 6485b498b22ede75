"""The benchmark: muxfs and its peers, in the same run, on the same work.

    python -m bench [--quick] [--json FILE]          all parts, as tables
    python -m bench comparison --peers ssh,muxfs     one part, some peers
    python -m bench --publish docs/bench             figures, plots and tables for the docs

parts:
  comparison   muxfs and its peers on the same work
  growth       how the cost grows with streams, messages, the ring and batches
  latency      a simulated filesystem, by the time that an operation takes
  polling      policies of polling on recorded traffic
  startup      how long the commands take to start
What hosts with a network filesystem between them get: python -m bench.network LAB.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bench import comparison, latency, peers, polling, report, startup, usage
from bench.growth import Growth
from bench.peers import Peer
from bench.report import Curves, Points, Results
from bench.sizes import QUICK, Sizes
from muxfs.storage.filesystem import find_filesystem

PARTS = ("comparison", "growth", "latency", "polling", "startup")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help="all, if none is given")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work at all")
    parser.add_argument("--rounds", type=int, help="how often each work is done (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="write figures, plots and tables there"
    )
    parser.add_argument("--peers", default="", help=f"some of {','.join(PEERS)} (a,b,...)")
    parser.add_argument(
        "--works", default="", help="only works whose name holds one of these words (a,b,...)"
    )
    parser.add_argument(
        "--directory", type=Path, default=peers.TMPFS, help="of muxfs's files (%(default)s)"
    )
    parser.add_argument(
        "--disk", type=Path, default=Path("/var/tmp"), help="on a local disk (%(default)s)"
    )
    parser.add_argument(
        "--muxfs-options", type=shlex.split, default=[], help="further options of both commands"
    )
    options = parser.parse_args(arguments)
    if options.publish and importlib.util.find_spec("matplotlib") is None:
        parser.error("--publish draws with matplotlib: pip install '.[bench]'")
    options.parts = options.parts or list(PARTS)
    options.peers = words(options.peers) or list(PEERS)
    for given, known in ((options.parts, PARTS), (options.peers, PEERS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    return options


def words(text: str) -> list[str]:
    """Split a list."""
    return [word for word in text.split(",") if word]


def make_muxfs(
    options: argparse.Namespace,
    name: str,
    further: Sequence[str] = (),
    program: Sequence[str] = peers.MUXFS,
) -> Peer:
    """Make a peer of muxfs as the command line says."""
    return peers.muxfs(name, options.directory, [*options.muxfs_options, *further], program=program)


PEERS: Mapping[str, Callable[[argparse.Namespace], Peer]] = {
    "tcp": lambda _: peers.direct,
    "socat": lambda _: peers.socat,
    "ssh": lambda _: peers.ssh(report.BASELINE),
    "ssh-aes": lambda _: peers.ssh("ssh -L, aes128-gcm", "aes128-gcm@openssh.com"),
    "fileforward": lambda _: peers.fileforward,
    "muxfs": lambda options: make_muxfs(options, "muxfs"),
    "muxfs-key": lambda options: peers.muxfs(
        "muxfs, key", options.directory, options.muxfs_options, sealed=True
    ),
    "muxfs-disk": lambda options: peers.muxfs(
        "muxfs, disk", options.disk, options.muxfs_options, bulk_only=True
    ),
}


@attrs.define
class Run:
    """All that was measured."""

    options: argparse.Namespace
    sizes: Sizes
    machine: dict[str, Any] = attrs.field(factory=report.machine)
    results: Results = attrs.field(factory=Results)
    curves: dict[str, Sequence[Curves | Points]] = attrs.field(factory=dict)
    starts: dict[str, float] = attrs.field(factory=dict)
    seconds: dict[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for name in ("directory", "disk"):
            place = find_filesystem(str(getattr(self.options, name)))
            self.machine[f"filesystem of --{name}"] = place.type

    def measure(self) -> None:
        """Do the parts that were asked for, one after the other."""
        for part in self.options.parts:
            start = time.monotonic()
            try:
                getattr(self, f"_{part}")()
            except Exception as error:  # noqa: BLE001  (what the other parts found is not lost)
                self.results.troubles.append(f"muxfs: {part}: {type(error).__name__}: {error}")
            self.seconds[part] = round(time.monotonic() - start, 1)
        progress("")

    def _comparison(self) -> None:
        chosen = {name: PEERS[name](self.options) for name in self.options.peers}
        run = comparison.Comparison(self.sizes, progress, self.results)
        run.run(chosen, words(self.options.works))

    def _growth(self) -> None:
        growth = Growth(self.sizes, progress, self.results.troubles)
        self.curves["growth"] = growth.run(functools.partial(make_muxfs, self.options))

    def _latency(self) -> None:
        self.curves["latency"] = latency.curves(self.sizes, progress)

    def _polling(self) -> None:
        self.curves["polling"] = polling.points(self.sizes, progress)

    def _startup(self) -> None:
        progress("start-up")
        self.starts = startup.measure(self.sizes.starts)

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "machine": self.machine,
            "sizes": attrs.asdict(self.sizes),
            "seconds": self.seconds,
            "comparison": self.results.as_json(),
            "startup [ms]": self.starts,
            **{part: [c.as_json() for c in curves] for part, curves in self.curves.items()},
        }

    def print(self) -> None:
        """Print tables."""
        for name, value in self.machine.items():
            print(f"{name}: {value}")
        print(f"medians of {self.sizes.rounds}; in brackets: against {report.BASELINE}\n")
        if self.results.figures:
            print(report.lines(self.results.rows()))
        for curves in (curves for part in self.curves.values() for curves in part):
            print(f"\n{curves.title} [{curves.y}]\n{report.lines(curves.rows())}")
        if self.starts:
            print("\nStart-up [ms]")
        for name, value in self.starts.items():
            print(f"{name:<45} {value:6.1f}")
        for trouble in self.results.troubles:
            print(f"NOTE: {trouble}")


def progress(text: str) -> None:
    """Say what is being done, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if muxfs failed at something."""
    options = parse(arguments)
    usage.raise_limit_of_descriptors()
    sizes = QUICK if options.quick else Sizes()
    if options.rounds:
        sizes = attrs.evolve(sizes, rounds=options.rounds)
    run = Run(options, sizes)
    run.measure()
    run.print()
    if options.json:
        options.json.write_text(json.dumps(run.as_json(), indent=1) + "\n")
    if options.publish:
        from bench.publish import publish  # noqa: PLC0415  (only this needs matplotlib)

        publish(options.publish, run.as_json(), run.results, run.curves, run.starts)
    return 0 if run.results.right() else 1


if __name__ == "__main__":
    sys.exit(main())
