"""How much may be in flight."""

from __future__ import annotations

from muxfs.core.pacing import FIRST_ROUND_TRIP, FLOOR, Pacer

MIB = 1 << 20


def transfer(pacer: Pacer, rate: float, round_trip: float, seconds: float, began: float) -> None:
    """Acknowledge batches as a link of that rate and round trip does."""
    size = 256 << 10
    now, sent = began, []
    while now < began + seconds:
        sent.append((now, pacer.delivered))
        while sent and sent[0][0] + round_trip <= now:
            at, delivered = sent.pop(0)
            pacer.acknowledged(size, at, delivered, now)
        now += size / rate


def test_before_anything_is_known() -> None:
    pacer = Pacer()
    assert pacer.allowance == FLOOR
    assert pacer.round_trip == FIRST_ROUND_TRIP


def test_allowance_is_about_twice_rate_times_round_trip() -> None:
    pacer = Pacer()
    transfer(pacer, rate=100 * MIB, round_trip=0.2, seconds=3, began=0.0)
    assert 0.19 <= pacer.round_trip <= 0.22
    assert 30 * MIB < pacer.allowance < 60 * MIB


def test_allowance_follows_a_link_that_became_slow() -> None:
    pacer = Pacer()
    transfer(pacer, rate=100 * MIB, round_trip=0.2, seconds=3, began=0.0)
    transfer(pacer, rate=2 * MIB, round_trip=0.2, seconds=30, began=3.0)
    assert pacer.allowance < 3 * MIB


def test_never_less_than_the_floor() -> None:
    pacer = Pacer()
    transfer(pacer, rate=MIB // 4, round_trip=0.01, seconds=5, began=0.0)
    assert pacer.allowance >= FLOOR


def test_an_ack_in_the_same_instant_measures_nothing() -> None:
    pacer = Pacer()
    pacer.acknowledged(1000, 5.0, 0, 5.0)
    assert pacer.delivered == 1000
    assert pacer.round_trip == FIRST_ROUND_TRIP


def test_pings_are_smoothed() -> None:
    pacer = Pacer()
    pacer.answered(1.0)
    assert pacer.smoothed == 1.0
    pacer.answered(2.0)
    assert pacer.smoothed == 1.25
    assert pacer.round_trip == 1.25


def test_the_shortest_recent_round_trip_counts() -> None:
    pacer = Pacer()
    pacer.acknowledged(1000, 0.0, 0, 0.5)
    pacer.acknowledged(1000, 1.0, 0, 1.1)
    assert round(pacer.round_trip, 3) == 0.1
    pacer.acknowledged(1000, 50.0, 0, 50.7)
    assert round(pacer.round_trip, 3) == 0.7
