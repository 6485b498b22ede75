"""How long the commands take to start, beside Python alone."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

NOWHERE = "/nonexistent/tunnel"
CASES = {
    "python alone": ["-c", "pass"],
    "muxfs --help": ["-m", "muxfs", "--help"],
    "muxfs stdio, until it has looked for an end": [
        *("-m", "muxfs", "stdio", "--persist", "0", NOWHERE, "1")
    ],
    "muxfs listen, until it needs its directory": ["-m", "muxfs", "listen", NOWHERE, "1"],
}


def measure(runs: int) -> dict[str, float]:
    """Return the medians in ms; the cases take turns, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, argv in CASES.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *argv], capture_output=True, check=False)
            times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
