"""Figures of all rounds, their medians, and the table that people read."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

BASELINE = "ssh -L"


@attrs.define
class Results:
    """All figures of a run: figure, peer, rounds."""

    peers: Sequence[str]
    machine: Mapping[str, str | int | float]
    figures: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)

    def add(self, peer: str, figures: Mapping[str, float]) -> None:
        """Add what one round of one work gave for one peer."""
        for figure, value in figures.items():
            self.figures.setdefault(figure, {}).setdefault(peer, []).append(value)

    def summary(self, figure: str, peer: str) -> float | None:
        """Return what stands for all rounds: the median, or the worst where one is too many."""
        values = self.figures[figure].get(peer)
        if not values:
            return None
        if "max" in figure or "failed" in figure or "differs" in figure:
            return max(values)
        return statistics.median(values)

    def right(self) -> bool:
        """Say whether no byte was wrong and no connection failed."""
        return not any(
            self.summary(figure, peer)
            for figure in self.figures
            if "failed" in figure or "differs" in figure
            for peer in self.peers
        )

    def as_json(self) -> dict[str, Any]:
        """Return the whole run."""
        summaries = {
            figure: {peer: self.summary(figure, peer) for peer in by_peer}
            for figure, by_peer in self.figures.items()
        }
        return {"machine": self.machine, "summary": summaries, "rounds": self.figures}

    def table(self) -> str:
        """Return a table, with each peer's ratio to the baseline in brackets."""
        rows = [["", *self.peers]]
        for figure in self.figures:
            cells = [self._cell(figure, peer) for peer in self.peers]
            rows.append([figure, *cells])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = []
        for first, *others in rows:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
        return "\n".join(lines)

    def _cell(self, figure: str, peer: str) -> str:
        value = self.summary(figure, peer)
        if value is None:
            return "-"
        text = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
        base = self.summary(figure, BASELINE)
        if not base or peer == BASELINE:
            return text
        return f"{text} ({value / base:.2f})"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, str | int | float]:
    """Describe where the figures are from. Ask before the run: of the load of others."""
    versions = {name: metadata.version(name) for name in ("trio", "xxhash")}
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": round(os.getloadavg()[0], 2),
        **versions,
    }
