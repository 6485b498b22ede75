"""The tunnel against `ssh -L`, a chain of two socats, and no tunnel at all.

    python -m bench.tunnel [--quick] [--json FILE]

Both ends of each peer, the service and its clients run on this machine. All peers run
during the whole time and take turns, so that a noisy moment hits each of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench import peers, report, works

TMPFS = Path("/dev/shm")
PEERS = {"tcp": peers.direct, "socat": peers.socat, "ssh": peers.ssh}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work at all")
    parser.add_argument("--rounds", type=int, help="how often each work is done (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--peers", default="tcp,socat,ssh,muxfs", help="which of them; also muxfs-key (%(default)s)"
    )
    parser.add_argument(
        "--works", default="", help="only works whose name holds one of these words (a,b,...)"
    )
    parser.add_argument(
        "--directory", type=Path, default=TMPFS, help="where muxfs has its files (%(default)s)"
    )
    parser.add_argument(
        "--muxfs-options", type=shlex.split, default=[], help="further options of both commands"
    )
    return parser.parse_args(arguments)


def chosen_works(words: str) -> list[works.Work]:
    """Return the works that the user asks for."""
    wanted = [word for word in words.split(",") if word]
    return [work for work in works.WORKS if not wanted or any(word in work.name for word in wanted)]


def measure(
    running: Sequence[peers.Running], chosen: Sequence[works.Work], sizes: works.Sizes
) -> report.Results:
    """Do each work with each peer in turn, as often as asked for; then rest."""
    results = report.Results([peer.name for peer in running], report.machine())
    for work in chosen:
        for number in range(sizes.rounds):
            for peer in running:
                progress(f"{work.name}: round {number + 1} of {sizes.rounds}, {peer.name}")
                results.add(peer.name, work.run(peer, sizes))
    progress(f"idle for {sizes.idle_seconds:.0f} s")
    for name, figures in works.idle(running, sizes.idle_seconds).items():
        results.add(name, figures)
    return results


def progress(text: str) -> None:
    """Say what is being done, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(arguments)
    sizes = works.QUICK if options.quick else works.Sizes()
    if options.rounds:
        sizes = attrs.evolve(sizes, rounds=options.rounds)
    muxfs = peers.muxfs("muxfs", options.directory, options.muxfs_options)
    sealed = peers.muxfs("muxfs, key", options.directory, options.muxfs_options, sealed=True)
    available = PEERS | {"muxfs": muxfs, "muxfs-key": sealed}
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(peers.service())
        running = [
            stack.enter_context(available[name](target)) for name in options.peers.split(",")
        ]
        results = measure(running, chosen_works(options.works), sizes)
    progress("")
    for name, value in results.machine.items():
        print(f"{name}: {value}")
    note = f"; in brackets: against {report.BASELINE}" if "ssh" in options.peers else ""
    print(f"medians of {sizes.rounds}{note}\n")
    print(results.table())
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    return 0 if results.right() else 1


if __name__ == "__main__":
    sys.exit(main())
