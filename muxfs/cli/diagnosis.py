"""The doctor's findings and report in words, a table, and a histogram.

What is drawn is the report for programs (docs/doctor.md): there is no other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from muxfs.cli.layout import Paper, columns
from muxfs.doctor.findings import Finding, Verdict
from muxfs.doctor.statistics import BOUNDS
from muxfs.doctor.trials import Fault
from muxfs.errors import printable
from muxfs.units import amount, span

Facts = dict[str, Any]

_COLOURS: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "red"}
_INDENT: Final = 21
_BAR: Final = 48

_FAULTS: Final = {
    Fault.UNREAD: "stale: the server had the new bytes, and the reader was not shown them",
    Fault.UNWRITTEN: "not seen: what was written had not left the writer's host after {limit}",
    Fault.SLOW: "not seen within {limit}",
    Fault.FAILED: "refused: {error}",
    Fault.UNTRIED: "not tried: {error} (--time gives more)",
}


def finding_lines(finding: Finding, paper: Paper) -> Iterator[str]:
    """Describe one finding."""
    verdict = finding.verdict
    mark = paper.paint(f"{verdict.value:<7}", _COLOURS[verdict])
    yield f" {mark}  {finding.name:<10} {printable(finding.found)}"
    if finding.advice:
        yield " " * _INDENT + printable(finding.advice)


def report_lines(report: Facts, paper: Paper) -> Iterator[str]:
    """Describe what a pair of doctors found out."""
    yield from _host_lines(report)
    yield ""
    yield from _table(report, paper)
    yield ""
    drawn = _drawn(report)
    if drawn is not None:
        yield from _histogram(drawn, paper)
        yield ""
    yield from _facts_lines(report)
    yield ""
    verdict = Verdict(report["recommendation"]["verdict"])
    words = report["recommendation"]["words"]
    yield paper.paint(f"recommended: {words}", _COLOURS[verdict])
    if report["one_kernel"]:
        yield (
            "Both doctors ran on one host, over one mount: this is what its kernel does, and says "
            "nothing of two hosts."
        )


def _host_lines(report: Facts) -> Iterator[str]:
    rows = []
    for letter, host in zip("AB", report["hosts"], strict=True):
        pid = host["process"].split("/")[2:3]
        where = [letter, printable(host["name"]), f"pid {pid[0]}" if pid else ""]
        rows.append([*where, printable(host["filesystem"]), f"chooses {host['access']}"])
    yield from columns(rows)


def _table(report: Facts, paper: Paper) -> Iterator[str]:
    trials: list[Facts] = report["trials"]
    least, most = _range([trial["histogram"] for trial in trials])
    axis = f"seen after {_bound(least - 1)} .. {_bound(most)}"
    head = ["access", "round trip", "p99", "A to B", "B to A", "poll", "requests a poll", axis]
    rows = [head]
    for trial in trials:
        mark = "*" if trial["access"] == report["automatic"] else ""
        name = f"{trial['access']}{mark}"
        if trial["passed"]:
            rows.append([name, *_cells(trial), paper.spark(trial["histogram"][least : most + 1])])
        else:
            limit = f"{report['limit']:.2g} s"
            words = _FAULTS[Fault(trial["fault"])].format(limit=limit, error=trial["error"])
            rows.append([name, printable(words)])
    yield from columns(rows, right=frozenset({1, 2, 3, 4, 5}))
    yield "* what muxfs chooses by itself" + _names_of_auto(report)


def _names_of_auto(report: Facts) -> str:
    names = [trial["names"] for trial in report["trials"] if trial["access"] == "auto"]
    return f": {names[0][0]} on A, {names[0][1]} on B" if names else ""


def _cells(trial: Facts) -> list[str]:
    times = [
        trial["round_trip"]["median_ms"],
        trial["round_trip"]["p99_ms"],
        trial["there"]["median_ms"],
        trial["back"]["median_ms"],
        trial["poll_ms"],
    ]
    requests = trial["requests_per_poll"]
    if requests is None:
        words = "not told"
    else:
        words = " ".join(f"{count:g} {name}" for name, count in requests.items()) or "none"
    return [*(span(max(0.0, time) / 1e3) for time in times), words]


def _drawn(report: Facts) -> Facts | None:
    """Return the trial whose delays are drawn: that of the access that is recommended."""
    access = report["recommendation"]["access"]
    wanted = report["automatic"] if access == "auto" else access
    return next((t for t in report["trials"] if t["access"] == wanted and t["histogram"]), None)


def _histogram(trial: Facts, paper: Paper) -> Iterator[str]:
    counts: list[int] = trial["histogram"]
    yield f"How soon the other host sees a write by {trial['access']} (from the start of the write)"
    least, most = _range([counts])
    rows = [
        [
            f"  up to {_bound(index)}",
            str(counts[index]),
            paper.bar(counts[index], max(counts), _BAR),
        ]
        for index in range(least, most + 1)
    ]
    if most == len(BOUNDS):
        rows[-1][0] = f"  more than {_bound(most - 1)}"
    yield from columns(rows, right=frozenset({1}))


def _range(histograms: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the first and the last bucket that any of them uses."""
    used = [index for counts in histograms for index, count in enumerate(counts) if count]
    return min(used, default=0), max(used, default=0)


def _bound(index: int) -> str:
    return span(BOUNDS[index]) if 0 <= index < len(BOUNDS) else "0" if index < 0 else "more"


_LOCKS: Final = {
    "exclusive": "a lock of one host keeps the other one out",
    "separate": "each host gets the same lock: they exclude nobody there",
    "refused": "the lock could not be had",
    "failed": "there are none",
    "silent": "a lock call does not return",
}


def _facts_lines(report: Facts) -> Iterator[str]:
    torn = report["torn"]
    if torn is not None and torn["reads"]:
        share = 100 * torn["torn"] / torn["reads"]
        yield (
            f"torn views  {torn['torn']} of {torn['reads']} reads of 1 MiB ({share:.2g} %), "
            f"{torn['tail_first']} with the end before the beginning, {torn['within_page']} within "
            "4 KiB: muxfs checks what it reads"
        )
    speeds = ["no result" if s is None else f"{amount(s)}/s" for s in report["streams"]]
    yield f"stream      A to B {speeds[0]}, B to A {speeds[1]}, in blocks of 1 MiB, one at a time"
    locks = str(_LOCKS.get(report["locks"], report["locks"]))
    yield f"locks       {printable(locks)} (muxfs needs none)"
