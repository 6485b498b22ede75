"""How long the commands take to start, beside Python alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
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
    """Return the medians in ms; the cases take turns, so that all see the same machine.

    All modules are compiled, as pip does when it installs them.
    """
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(runs + 1):
            for name, argv in CASES.items():
                command = [sys.executable, *argv]
                begin = time.perf_counter()
                subprocess.run(command, capture_output=True, check=False, env=environment)
                if turn:  # the first one compiles
                    times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
