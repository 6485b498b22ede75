"""How long `muxfs stdio` takes to start, over Python alone: `python -m bench.startup`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 30
CASES = {
    "python alone": ["-c", "pass"],
    "muxfs stdio, until it has looked for an end": ["-m", "muxfs", "stdio", "--persist", "0"],
}


def main() -> None:
    """Print medians; the cases take turns, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, words in CASES.items():
            tunnel = ["/nonexistent/tunnel", "1"] if "stdio" in words else []
            begin = time.perf_counter()
            subprocess.run([sys.executable, *words, *tunnel], capture_output=True, check=False)
            times[name].append(1000 * (time.perf_counter() - begin))
    bare = statistics.median(times["python alone"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<45} {median:6.1f} ms  (+{median - bare:.1f})")


if __name__ == "__main__":
    main()
