"""What muxfs set out to reach, beside what a run gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from bench.latency import SHARES
from bench.report import BASELINE, Curves, Points, Results, number

NOISE: Final = 1.05
"""What counts as no more: idle CPU is a few ms of a minute."""
OPERATION: Final = 20.0
"""Milliseconds that an operation of the simulated filesystem takes."""


@attrs.frozen
class Goal:
    """One figure and its bound."""

    work: str
    found: float | None
    """None: not measured in this run."""
    bound: float
    at_most: bool = False

    def row(self) -> list[str]:
        """Return it as a row of a table."""
        bound = f"{'at most' if self.at_most else 'at least'} {number(self.bound)}"
        if self.found is None:
            return [self.work, bound, "-", "-"]
        reached = self.found <= self.bound if self.at_most else self.found >= self.bound
        return [self.work, bound, number(self.found), "yes" if reached else "no"]


def goals(results: Results, latency: Sequence[Curves | Points]) -> Iterator[Goal]:
    """Compare a run with all goals but those on real network filesystems."""

    def of(figure: str, peer: str = "muxfs") -> float | None:
        return results.summary(figure, peer)

    for way in ("up", "down"):
        figure = f"one stream {way} [MB/s]"
        for peer, bound in ((BASELINE, 4), ("ssh -L, aes128-gcm", 2), ("socat x 2", 0.6)):
            yield Goal(f"one stream {way} / {peer}", _ratio(of(figure), of(figure, peer)), bound)
        for kind, words in (("muxfs, key", "with a key"), ("muxfs, disk", "on the disk")):
            share = _ratio(of(figure, kind), of(figure))
            yield Goal(f"one stream {way} {words} / without", share, 0.8)
    down = of("one stream down [MB/s]")
    yield Goal("16 streams down / one", _ratio(of("16 streams down [MB/s]"), down), 1)
    echo = of("echo p50 [us]")
    yield Goal(f"echo p50 / {BASELINE}", _ratio(echo, of("echo p50 [us]", BASELINE)), 3, True)
    yield Goal("echo p99 / p50", _ratio(of("echo p99 [us]"), echo), 10, True)
    for way in ("up", "down"):
        for figure, bound in (("p50", 2), ("p99", 10)):
            found = _ratio(of(f"echo under bulk {way} {figure} [us]"), 1000.0)
            yield Goal(f"echo under bulk {way} {figure} [ms]", found, bound, True)
    connection = "connection p50 [us]"
    found = _ratio(of(connection), of(connection, BASELINE))
    yield Goal(f"connection p50 / {BASELINE}", found, 1, True)
    crowd, idle = "with 1000 idle streams: ", "idle CPU of a side [%]"
    yield Goal("1000 idle streams [MiB]", of(f"{crowd}memory of a side [MiB]"), 100, True)
    found = _ratio(of(f"{crowd}{idle}"), of(idle))
    yield Goal("1000 idle streams: idle CPU / with none", found, NOISE, True)
    yield Goal("idle file operations [1/s]", of("idle file operations of a side [1/s]"), 2, True)
    yield Goal(idle, of(idle), 0.3, True)
    for each in latency:
        if isinstance(each, Curves) and each.title == SHARES and OPERATION in each.at:
            place = list(each.at).index(OPERATION)
            for link, shares in each.series.items():
                name = f"simulated {OPERATION:g} ms, {link}: share of the bound"
                yield Goal(name, shares[place], 0.8)


def _ratio(found: float | None, base: float | None) -> float | None:
    return found / base if found is not None and base else None


def table(results: Results, latency: Sequence[Curves | Points]) -> list[list[str]]:
    """Return all of it with a head."""
    rows = [goal.row() for goal in goals(results, latency)]
    return [["", "goal", "here", "reached"], *rows]
