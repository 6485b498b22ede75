"""Percentiles, buckets, and delays between two clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.doctor.statistics import BOUNDS, Summary, delays, histogram

times = st.floats(min_value=0, max_value=10, allow_nan=False)


@given(st.lists(times, min_size=1))
def test_a_summary(samples: list[float]) -> None:
    summary = Summary.of(samples)
    assert summary is not None
    assert summary.count == len(samples)
    assert summary.most == max(samples)
    assert min(samples) <= summary.median <= summary.p99 <= summary.most
    # nearest rank: no more than so many are above
    assert 2 * sum(sample > summary.median for sample in samples) <= len(samples)
    assert 100 * sum(sample > summary.p99 for sample in samples) <= len(samples)
    assert {summary.median, summary.p99} <= set(samples)


def test_a_summary_of_nothing() -> None:
    assert Summary.of([]) is None


def test_the_99th_percentile() -> None:
    summary = Summary.of([float(number) for number in range(1, 101)])
    assert summary == Summary(100, 50.0, 99.0, 100.0)
    assert summary.facts() == {"count": 100, "median_ms": 5e4, "p99_ms": 9.9e4, "max_ms": 1e5}


@given(st.lists(times))
def test_each_sample_is_in_its_bucket(samples: list[float]) -> None:
    counts = histogram(samples)
    assert len(counts) == len(BOUNDS) + 1
    assert sum(counts) == len(samples)
    for index, bound in enumerate(BOUNDS):
        assert sum(counts[: index + 1]) == sum(sample <= bound for sample in samples)


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)), min_size=1, max_size=50),
    st.floats(-1e6, 1e6),
)
def test_delays_whatever_the_clocks_say(rounds: list[tuple[float, float]], offset: float) -> None:
    """The true delays are within the uncertainty, and the round trips are exact."""
    sent, seen, answered, got = {}, {}, {}, {}
    now = 5.0
    for number, (there, back) in enumerate(rounds):
        sent[number] = now
        seen[number] = now + there + offset
        answered[number] = now + there + 0.25 + offset
        got[number] = now + there + 0.25 + back
        now = got[number] + 0.5
    found = delays(sent, seen, answered, got)
    assert found is not None
    room = found.uncertainty + 1e-8
    for (there, back), measured_there, measured_back in zip(
        rounds, found.there, found.back, strict=True
    ):
        assert measured_there == pytest.approx(there, abs=room)
        assert measured_back == pytest.approx(back, abs=room)
        assert measured_there + measured_back == pytest.approx(there + back, abs=1e-8)
        assert min(measured_there, measured_back) >= -1e-8


def test_delays_need_a_whole_round() -> None:
    assert delays({1: 0.0}, {1: 0.1}, {}, {}) is None
    assert delays({}, {}, {}, {}) is None


def test_rounds_that_were_not_finished_do_not_count() -> None:
    found = delays({1: 0.0, 2: 1.0}, {1: 0.5}, {1: 0.5}, {1: 1.0})
    assert found is not None
    assert (found.there, found.back) == ([0.5], [0.5])
