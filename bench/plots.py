"""Plots of a run as SVG files. Needs matplotlib, as nothing else does: pip install '.[bench]'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import Curves, Points, Results

COLOURS = {
    "tcp": "#999999",
    "socat x 2": "#d9a441",
    "ssh -L": "#4477aa",
    "ssh -L, aes128-gcm": "#66bbdd",
    "FileForward*": "#bb6688",
    "muxfs": "#117733",
    "muxfs, key": "#44aa88",
    "muxfs, disk": "#88cc66",
}
"""Of the peers, in all plots."""
COLUMNS = 2
STEP = 4
"""Between the values of a quantity so far apart, its axis is logarithmic."""

mpl.rcParams.update(
    {"svg.hashsalt": "muxfs", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True}
)


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    columns = min(panels, COLUMNS)
    rows = -(-panels // columns)
    size = (max(4.6 * columns, 7.0), 3.6 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    for panel in axes:
        panel.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})


def bars(
    path: Path, results: Results, panels: Sequence[tuple[str, Sequence[str]]], *, logarithmic: bool
) -> None:
    """Draw figures of all peers side by side; a panel for each title and list of figures."""
    figure, axes = _figure(len(panels))
    peers = results.peers
    for panel, (title, names) in zip(axes, panels, strict=True):
        width = 0.8 / len(peers)
        for number, peer in enumerate(peers):
            heights = [results.summary(name, peer) or 0.0 for name in names]
            at = [place + (number - len(peers) / 2 + 0.5) * width for place in range(len(names))]
            panel.bar(at, heights, width, label=peer, color=COLOURS[peer])
        labels = [
            name.partition(" [")[0].replace(" under bulk", "\nunder bulk\n") for name in names
        ]
        panel.set_xticks(range(len(names)), labels, fontsize=8)
        panel.set_title(title)
        panel.grid(visible=False, axis="x")
        if logarithmic:
            panel.set_yscale("log")
    axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def points(path: Path, panels: Sequence[Points]) -> None:
    """Draw named points."""
    figure, axes = _figure(len(panels))
    for panel, each in zip(axes, panels, strict=True):
        for number, (name, (x, y)) in enumerate(each.at.items()):
            ours = name.startswith("default")
            panel.plot(x, y, "*" if ours else "o", color=f"C{number}", label=name)
        panel.set(title=each.title, xlabel=each.x, ylabel=each.y, xscale="log", yscale="log")
    axes[-1].legend(fontsize=7)
    _save(figure, path)


def curves(path: Path, panels: Sequence[Curves]) -> None:
    """Draw curves; what is a limit is dashed."""
    figure, axes = _figure(len(panels))
    for panel, each in zip(axes, panels, strict=True):
        colours: dict[str, str] = {}
        for name, ys in each.series.items():
            base = name.partition(":")[0]
            colour = colours.setdefault(base, COLOURS.get(base, f"C{len(colours)}"))
            known = [(x, y) for x, y in zip(each.at, ys, strict=True) if y is not None]
            style = "--" if name in each.bounds else "o-"
            panel.plot(*zip(*known, strict=True), style, color=colour, label=name, markersize=3)
        least = min((x for x in each.at if x > 0), default=0)
        if max(each.at) > STEP**2 * least > 0 and min(each.at) > 0:
            panel.set_xscale("log")
        elif max(each.at) > STEP**2 * least > 0:
            panel.set_xscale("symlog", linthresh=least)  # which has a place for 0
        values = [y for ys in each.series.values() for y in ys if y]
        if values and max(values) > STEP**2 * min(values):
            panel.set_yscale("log")
        panel.set(title=each.title, xlabel=each.x, ylabel=each.y)
        panel.legend(fontsize=7)
    _save(figure, path)
