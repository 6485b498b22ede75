"""Figures of all rounds, their medians, curves, and the tables that people read."""

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
WRONG = ("failed", "differs")
"""Words in the names of figures that are to be none."""


@attrs.define
class Results:
    """All figures of a comparison: figure, peer, rounds."""

    figures: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)
    troubles: list[str] = attrs.field(factory=list)
    """What did not work, in words."""

    def add(self, peer: str, figures: Mapping[str, float]) -> None:
        """Add what one round of one work gave for one peer."""
        for figure, value in figures.items():
            self.figures.setdefault(figure, {}).setdefault(peer, []).append(value)

    @property
    def peers(self) -> list[str]:
        """All that have figures, as they came."""
        return list(dict.fromkeys(peer for by_peer in self.figures.values() for peer in by_peer))

    def summary(self, figure: str, peer: str) -> float | None:
        """Return what stands for all rounds: the median, or the worst where one is too many."""
        values = self.figures.get(figure, {}).get(peer)
        if not values:
            return None
        if "max" in figure or any(word in figure for word in WRONG):
            return max(values)
        return statistics.median(values)

    def single(self) -> list[str]:
        """Return the figures that were measured only once."""
        return [
            name for name, by_peer in self.figures.items() if max(map(len, by_peer.values())) == 1
        ]

    def right(self) -> bool:
        """Say whether muxfs lost no byte and no connection, and did all its work."""
        ours = [peer for peer in self.peers if peer.startswith("muxfs")]
        wrong = [figure for figure in self.figures if any(word in figure for word in WRONG)]
        return not (
            any(self.summary(figure, peer) for figure in wrong for peer in ours)
            or any(trouble.startswith("muxfs") for trouble in self.troubles)
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        summaries = {
            figure: {peer: self.summary(figure, peer) for peer in by_peer}
            for figure, by_peer in self.figures.items()
        }
        return {"summary": summaries, "rounds": self.figures, "troubles": self.troubles}

    def rows(self) -> list[list[str]]:
        """Return a table, with each peer's ratio to the baseline in brackets."""
        peers = self.peers
        body = [[name, *(self._cell(name, peer) for peer in peers)] for name in self.figures]
        return [["", *peers], *body]

    def _cell(self, figure: str, peer: str) -> str:
        value = self.summary(figure, peer)
        if value is None:
            return "-"
        base = self.summary(figure, BASELINE)
        if not base or peer == BASELINE:
            return number(value)
        return f"{number(value)} ({value / base:.2g})"


@attrs.define
class Curves:
    """How figures depend on one quantity."""

    title: str
    x: str
    y: str
    at: Sequence[float]
    series: dict[str, list[float | None]] = attrs.field(factory=dict)
    """None: could not be measured there."""
    bounds: frozenset[str] = frozenset()
    """The series that are limits, and not measured."""

    def rows(self) -> list[list[str]]:
        """Return a table."""
        columns = [["-" if y is None else number(y) for y in ys] for ys in self.series.values()]
        body = [[number(x), *cells] for x, *cells in zip(self.at, *columns, strict=True)]
        return [[self.x, *self.series], *body]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return attrs.asdict(self, recurse=False) | {"bounds": sorted(self.bounds)}


@attrs.define
class Points:
    """Two figures of each of several things."""

    title: str
    x: str
    y: str
    at: dict[str, tuple[float, float]] = attrs.field(factory=dict)

    def rows(self) -> list[list[str]]:
        """Return a table."""
        return [
            ["", self.x, self.y],
            *([name, *map(number, pair)] for name, pair in self.at.items()),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return attrs.asdict(self)


def number(value: float) -> str:
    """Write a figure with three digits."""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Lay a table out for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    laid = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        laid.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(laid)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    head, *body = rows
    written = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in written)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, str | int | float]:
    """Describe where the figures are from. Ask before the run: of the load of others."""
    versions = {name: metadata.version(name) for name in ("trio", "xxhash")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory [GiB]": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": round(os.getloadavg()[0], 2),
        **versions,
    }
