"""From what both sides saw to the one line that counts."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.doctor.choice import recommend
from muxfs.doctor.findings import Verdict
from muxfs.doctor.statistics import Summary
from muxfs.doctor.trials import Fault, Trial, failed, judge
from muxfs.storage.access import READS, WRITES

AUTO = "direct+dsync"


def trial(access: str, median: float = 0.001, fault: Fault | None = None) -> Trial:
    summary = None if fault else Summary(100, median, 2 * median, 3 * median)
    return Trial(access, (access, access), fault, round_trip=summary)


names = st.builds("{}+{}".format, st.sampled_from(list(READS)), st.sampled_from(list(WRITES)))
trials = st.builds(
    trial,
    names,
    st.floats(1e-4, 1.0),
    st.one_of(st.none(), st.sampled_from(list(Fault))),
)


@given(st.lists(trials, unique_by=lambda t: t.access), st.sampled_from([AUTO, "held+plain"]))
def test_what_is_recommended_has_passed(found: list[Trial], auto: str) -> None:
    passed = {t.access for t in found if t.passed}
    recommendation = recommend(found, auto)
    if recommendation.access is None:
        assert not passed
        assert recommendation.verdict is Verdict.PROBLEM
    elif recommendation.access == "auto":
        assert auto in passed
    else:
        assert recommendation.access in passed
        assert f"--access {recommendation.access} " in recommendation.words


@given(st.lists(trials, unique_by=lambda t: t.access))
def test_what_can_get_stuck_is_the_last_resort(found: list[Trial]) -> None:
    recommendation = recommend(found, AUTO)
    chosen = [t for t in found if t.access == recommendation.access]
    if any(t.passed and t.dependable for t in found) and chosen:
        assert chosen[0].dependable


def test_the_automatic_choice_is_right() -> None:
    found = [trial(AUTO, 0.002), trial("dontneed+dsync", 0.0015), trial("held+dsync", 0.0001)]
    assert recommend(found, AUTO).access == "auto"
    assert recommend(found, AUTO).verdict is Verdict.OK


def test_another_one_is_much_faster() -> None:
    found = [trial(AUTO, 0.5), trial("dontneed+fdatasync", 0.01)]
    assert recommend(found, AUTO).access == "dontneed+fdatasync"
    assert recommend(found, AUTO).verdict is Verdict.OK


def test_the_automatic_choice_is_wrong() -> None:
    found = [
        trial("held+plain", fault=Fault.UNREAD),
        trial("reopen+dsync", 0.001),
        trial("direct+dsync", 0.003),
        trial("direct+fdatasync", 0.004),
    ]
    recommendation = recommend(found, "held+plain")
    assert recommendation.access == "direct+dsync"
    assert recommendation.verdict is Verdict.WARNING


def test_only_what_can_get_stuck_works() -> None:
    recommendation = recommend([trial(AUTO, fault=Fault.UNREAD), trial("reopen+dsync")], AUTO)
    assert recommendation.access == "reopen+dsync"
    assert "with care" in recommendation.words


# What happened, out of what both sides say

GOOD: dict[str, Any] = {
    "access": AUTO,
    "sent": [[2, 0.0], [3, 1.0]],
    "seen": [[2, 0.5], [3, 1.5]],
    "written": 3,
    "torn": 1,
    "polls": 7,
    "stall": None,
    "direct": True,
    "poll": 0.001,
    "requests": {"READ": 1.0},
}
ECHO = GOOD | {"seen": [[2, 100.25], [3, 101.25]], "sent": [[2, 100.25], [3, 101.25]]}


def test_a_good_trial() -> None:
    found = judge(AUTO, GOOD, ECHO)
    assert found.passed
    assert found.dependable
    assert found.round_trip == Summary(2, 0.5, 0.5, 0.5)
    assert found.there == found.back == Summary(2, 0.25, 0.25, 0.25)
    assert (found.torn, found.looks, sum(found.histogram)) == (2, 14, 4)
    assert found.requests == {"READ": 1.0}


def stalled(
    waited_for: int,
    server_has: int | None,
    written: int,
    shown: int | None = 0,
    steady: bool = True,
) -> dict[str, Any]:
    stall = {
        "waited_for": waited_for,
        "steady": steady,
        "server_has": server_has,
        "shown": shown,
    }
    return {"stall": stall, "written": written}


def test_a_reader_that_is_shown_old_bytes() -> None:
    """The leader waits for the answer 5, which is on the server; the follower waits for 6."""
    found = judge(AUTO, GOOD | stalled(5, 5, 5), ECHO | stalled(6, 5, 5))
    assert found.fault is Fault.UNREAD
    assert not found.passed
    assert not found.doubtful  # it is proved


def test_a_follower_that_is_shown_old_bytes() -> None:
    found = judge(AUTO, GOOD | stalled(5, 4, 5), ECHO | stalled(5, 5, 4))
    assert found.fault is Fault.UNREAD


def test_a_write_that_never_leaves_its_host() -> None:
    found = judge(AUTO, GOOD | stalled(2, 0, 2), ECHO | stalled(1, 0, 0))
    assert found.fault is Fault.UNWRITTEN
    assert found.doubtful  # it was a synced one: once more
    plain = {"access": "direct+plain"}
    assert not judge("", GOOD | stalled(2, 0, 2) | plain, ECHO | stalled(1, 0, 0) | plain).doubtful


def test_a_reader_that_is_shown_it_once_the_client_was_made_to_ask() -> None:
    """As by an attribute cache, for which the sure way is a reason to ask."""
    leader = GOOD | stalled(5, 5, 5, shown=5)
    assert judge(AUTO, leader, ECHO).fault is Fault.UNREAD
    assert judge(AUTO, leader, ECHO).doubtful
    held = {"access": "held+dsync"}
    assert not judge("", leader | held, ECHO | held).doubtful


@pytest.mark.parametrize(
    "leader",
    [
        stalled(5, 4, 5),  # the answer came after the last look at the server
        stalled(5, 5, 5, shown=5, steady=False),  # the reader stood still meanwhile
        stalled(5, None, 5),
    ],
)
def test_a_round_that_only_took_too_long(leader: dict[str, Any]) -> None:
    found = judge(AUTO, GOOD | leader, ECHO)
    assert found.fault is Fault.SLOW
    assert found.doubtful


def test_a_strategy_that_is_refused() -> None:
    found = failed("direct+dsync", "Invalid argument")
    assert not found.passed
    assert found.facts()["error"] == "Invalid argument"


def test_a_pair_of_different_choices_depends_on_both() -> None:
    both = attrs.evolve(trial("auto"), names=("direct+dsync", "cached+plain"))
    assert not both.dependable
