"""Which strategy to use, after the trials: a pure function, and its words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs

from muxfs.doctor.findings import Verdict
from muxfs.doctor.trials import Fault, Trial

BETTER: Final = 3.0
"""How many times faster another choice must be to be worth an option."""
WORTH: Final = 0.005
"""Seconds of round trip that it must save besides."""


@attrs.frozen
class Recommendation:
    """The one line that counts."""

    verdict: Verdict
    access: str | None
    """What --access should say on both hosts; "auto" for no option at all; None: nothing works."""
    words: str


def recommend(trials: Sequence[Trial], auto: str) -> Recommendation:
    """Choose among the trials, of which that of the access `auto` is what muxfs does by itself."""
    automatic = next((t for t in trials if t.access == auto and t.passed), None)
    best = min((t for t in trials if t.passed and t.dependable), key=_median, default=None)
    if automatic is not None and (best is None or not _is_much_better(best, automatic)):
        words = "the automatic choice is right: no --access needed"
        return Recommendation(Verdict.OK, "auto", words)
    if best is not None:
        why = "faster than the automatic choice" if automatic else "the automatic one fails here"
        words = f"use --access {best.access} on both hosts: {why}"
        return Recommendation(Verdict.OK if automatic else Verdict.WARNING, best.access, words)
    rest = min((t for t in trials if t.passed), key=_median, default=None)
    if rest is not None:
        words = (
            f"use --access {rest.access} on both hosts, with care: it worked now, but caches "
            "can get in its way"
        )
        return Recommendation(Verdict.WARNING, rest.access, words)
    words = "muxfs cannot work here: no strategy makes one host see what the other one writes"
    if any(t.fault is Fault.UNTRIED for t in trials):
        words = f"{words}, of those that there was time for (--time gives more)"
    return Recommendation(Verdict.PROBLEM, None, words)


def _median(trial: Trial) -> float:
    return math.inf if trial.round_trip is None else trial.round_trip.median


def _is_much_better(best: Trial, automatic: Trial) -> bool:
    saved = _median(automatic) - _median(best)
    return saved > WORTH and _median(automatic) > BETTER * _median(best)
