"""Figures, plots and tables of a run, for the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import goals, plots
from bench.report import BASELINE, Curves, Points, Results, markdown, number
from bench.usage import LOOKS

BEGIN = "<!-- written by python -m bench --publish -->"
END = "<!-- end -->"

THROUGHPUT = (
    "one stream up [MB/s]",
    "one stream down [MB/s]",
    "16 streams down [MB/s]",
    "one up and one down [MB/s]",
)
ECHOES = ("echo p50 [us]", "echo p99 [us]")
LOADED = ("echo under bulk up p50 [us]", "echo under bulk up p99 [us]")
CONNECTIONS = ("connection p50 [us]", "connection p99 [us]")
ROWS = (
    *THROUGHPUT,
    *ECHOES,
    *LOADED,
    "echo under bulk down p50 [us]",
    "echo under bulk down p99 [us]",
    *CONNECTIONS,
    "64 connections at once [ms]",
    "small writes [1/s]",
    "small writes p50 [ms]",
    "idle CPU of a side [%]",
    "idle file operations of a side [1/s]",
    "memory of a side [MiB]",
    "with 1000 idle streams: memory of a side [MiB]",
    "with 1000 idle streams: idle CPU of a side [%]",
)
"""What stands in the README."""

STAND_IN = (
    "\\* A stand-in for FileForward's method, written for this comparison: one file for each "
    "connection and direction, lockf, pieces of 4 KiB, a look every 50 ms. Its bulk works are "
    "shorter."
)
NOT_MEASURED = (
    "-: not measured. tcp has no process of its own; `muxfs, disk` does only the works of one bulk "
    "stream; the stand-in looks at the files of each open connection 20 times a second, which are "
    "too many with 1000."
)


def publish(
    place: Path,
    facts: Mapping[str, Any],
    results: Results,
    curves: Mapping[str, Sequence[Curves | Points]],
    starts: Mapping[str, float],
) -> None:
    """Write JSON, plots and README.md to a directory, and the table to the README above it."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "figures.json").write_text(json.dumps(facts, indent=1) + "\n")
    shown = list(_draw(place, results, curves))
    (place / "README.md").write_text(_page(facts, results, curves, starts, shown))
    readme = place.parent.parent / "README.md"
    if results.figures and readme.exists() and BEGIN in readme.read_text():
        head, _, rest = readme.read_text().partition(BEGIN)
        _, _, tail = rest.partition(END)
        notes = "\n\n".join(_notes(facts, results, [row for row in ROWS if row in results.figures]))
        table = f"{_machine(facts['machine'])}\n\n{markdown(_rows(results))}\n\n{notes}"
        readme.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")


def _draw(
    place: Path, results: Results, curves: Mapping[str, Sequence[Curves | Points]]
) -> list[tuple[str, str]]:
    """Draw what there is; return files and what they show."""
    drawn = []
    if any(name in results.figures for name in THROUGHPUT):
        plots.bars(
            place / "throughput.svg",
            results,
            [("Throughput [MB/s]", THROUGHPUT)],
            logarithmic=False,
        )
        panels = [
            ("Echo of 1 byte [us]", (*ECHOES, *LOADED)),
            ("Short connection [us]", CONNECTIONS),
        ]
        plots.bars(place / "times.svg", results, panels, logarithmic=True)
        drawn += [("throughput.svg", "Throughput"), ("times.svg", "Times of small things")]
    for part, title in TITLES.items():
        if part in curves:
            path = place / f"{part}.svg"
            lines = [each for each in curves[part] if isinstance(each, Curves)]
            points = [each for each in curves[part] if isinstance(each, Points)]
            (plots.curves(path, lines) if lines else plots.points(path, points))
            drawn.append((f"{part}.svg", title))
    return drawn


TITLES = {
    "growth": "How the cost grows",
    "latency": "A simulated filesystem, by the time that an operation takes",
    "polling": "Policies of polling",
}


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        "Both ends, client and server on one machine: "
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory [GiB]']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}, trio {machine['trio']}; "
        f"mailboxes on {machine['filesystem of --directory']}, those of `muxfs, disk` on "
        f"{machine['filesystem of --disk']}. All peers in the same run, medians unless said; in "
        f"brackets: against `{BASELINE}` with its default cipher."
    )


def _notes(facts: Mapping[str, Any], results: Results, shown: Sequence[str]) -> Iterator[str]:
    """Say below a table what it does not tell itself."""
    yield STAND_IN
    yield NOT_MEASURED
    single = [name.partition(" [")[0] for name in shown if name in results.single()]
    sizes = facts["sizes"]
    if single and sizes["rounds"] > 1:
        yield (
            f"Medians of {sizes['rounds']} rounds, but for single runs of {', '.join(single)}. "
            f"What is idle was left so for {sizes['idle']:.0f} s each time; memory is the median "
            f"of {LOOKS} looks in that time."
        )


def _rows(results: Results) -> list[list[str]]:
    head, *rows = results.rows()
    wanted = {row[0]: row for row in rows}
    return [head, *(wanted[name] for name in ROWS if name in wanted)]


def _page(
    facts: Mapping[str, Any],
    results: Results,
    curves: Mapping[str, Sequence[Curves | Points]],
    starts: Mapping[str, float],
    shown: Sequence[tuple[str, str]],
) -> str:
    words = [
        "# Figures\n\nWritten by `python -m bench --publish docs/bench`; all rounds are in "
        "[figures.json](figures.json).",
        _machine(facts["machine"]),
        f"Load before the run: {facts['machine']['load before']}.",
    ]
    if results.figures:
        words += ["## muxfs and its peers", markdown(results.rows())]
        words += _notes(facts, results, list(results.figures))
        words += ["## Goals", markdown(goals.table(results, curves.get("latency", ())))]
    words += [f"NOTE: {trouble}" for trouble in results.troubles]
    words += [f"## {title}\n\n![{title}]({file})" for file, title in shown]
    if starts:
        rows = [["start-up", "ms"], *([name, number(ms)] for name, ms in starts.items())]
        words += ["## Start-up", markdown(rows)]
    for each in (each for part in curves.values() for each in part):
        words += [f"## {each.title} [{each.y}]", markdown(each.rows())]
    return "\n\n".join(words) + "\n"
