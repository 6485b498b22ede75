"""How much may be in flight."""

from __future__ import annotations

from muxfs.core.pacing import FIRST_ROUND_TRIP, FLOOR, Pacer

MIB = 1 << 20


SIZE = 256 << 10


def transfer(pacer: Pacer, rate: float, round_trip: float, seconds: float, began: float) -> None:
    """Acknowledge batches as a link of that rate and round trip does, one after the other."""
    now, sent, last = began, [], began
    while now < began + seconds:
        if not (pacer.probing and sent):
            sent.append(pacer.send(SIZE, now, alone=not sent))
            last = max(last, now) + SIZE / rate
        while (
            sent and sent[0].at + round_trip <= now and last - (len(sent) - 1) * SIZE / rate <= now
        ):
            pacer.acknowledged(sent.pop(0), now)
        now += SIZE / rate / 2


def test_before_anything_is_known() -> None:
    pacer = Pacer()
    assert pacer.allowance == FLOOR
    assert pacer.round_trip == FIRST_ROUND_TRIP


def test_allowance_is_about_twice_rate_times_round_trip() -> None:
    pacer = Pacer()
    transfer(pacer, rate=100 * MIB, round_trip=0.2, seconds=3, began=0.0)
    assert 0.19 <= pacer.round_trip <= 0.22
    assert 30 * MIB < pacer.allowance < 60 * MIB
    assert 0.19 <= pacer.batch_round_trip <= 0.22


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
    pacer.acknowledged(pacer.send(1000, 5.0, alone=True), 5.0)
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
    pacer.acknowledged(pacer.send(1000, 0.0, alone=True), 0.5)
    pacer.acknowledged(pacer.send(1000, 1.0, alone=True), 1.1)
    assert round(pacer.round_trip, 3) == 0.1
    pacer.acknowledged(pacer.send(1000, 50.0, alone=True), 50.7)
    assert round(pacer.round_trip, 3) == 0.7


def test_the_round_trip_of_batches_is_that_of_one_alone() -> None:
    """Neither that of a small message nor that of one behind others."""
    pacer = Pacer()
    pacer.acknowledged(pacer.send(100, 0.0, alone=True), 0.001)
    pacer.acknowledged(pacer.send(MIB, 1.0, alone=True), 1.02)
    pacer.acknowledged(pacer.send(100, 2.0, alone=True), 2.001)
    pacer.acknowledged(pacer.send(MIB, 3.0, alone=False), 3.5)
    assert round(pacer.batch_round_trip, 3) == 0.02
    assert round(pacer.round_trip, 3) == 0.001


def test_a_batch_is_sent_alone_when_batches_have_grown_and_now_and_then() -> None:
    pacer = Pacer()
    pacer.acknowledged(pacer.send(MIB // 4, 1.0, alone=True), 1.02)
    pacer.acknowledged(pacer.send(MIB // 4, 1.0, alone=False), 1.03)
    assert not pacer.probing
    pacer.acknowledged(pacer.send(MIB, 1.0, alone=False), 1.05)
    assert pacer.probing
    pacer.acknowledged(pacer.send(MIB, 2.0, alone=True), 2.03)
    assert not pacer.probing
    assert round(pacer.batch_round_trip, 3) == 0.03
    pacer.acknowledged(pacer.send(MIB, 30.0, alone=False), 30.05)
    assert pacer.probing
