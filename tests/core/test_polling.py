"""How often the peer's file is looked at."""

from __future__ import annotations

import itertools

from muxfs.core.polling import FRACTION, NAP_FOR, PollPolicy

POLICY = PollPolicy(0.001, 1.0)


def test_pauses_grow_with_the_quiet_time_and_stay_within_limits() -> None:
    quiet = [0.0, 0.001, 0.01, 0.1, 1.0, 5.0, 8.0, 100.0]
    pauses = [POLICY.pause(seconds, immediate=False) for seconds in quiet]
    assert all(pause.nap == 0 for pause in pauses)
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(pauses))
    assert pauses[0].seconds == POLICY.minimum
    assert pauses[3].seconds == 0.1 * FRACTION
    assert pauses[-1].seconds == POLICY.maximum


def test_a_late_answer_is_at_most_a_fraction_later() -> None:
    now = polls = 0.0
    while now < 8:
        pause = POLICY.pause(now, immediate=False).seconds
        assert pause <= max(POLICY.minimum, now * FRACTION)
        now += pause
        polls += 1
    assert polls < 100


def test_naps_only_where_reads_are_memory_copies_and_not_for_long() -> None:
    near = POLICY.pause(NAP_FOR / 2, immediate=True)
    assert 0 < near.nap < near.seconds <= NAP_FOR
    assert POLICY.pause(NAP_FOR / 2, immediate=False).nap == 0
    assert POLICY.pause(NAP_FOR, immediate=True).nap == 0


def test_other_limits() -> None:
    policy = PollPolicy(0.05, 0.2)
    assert policy.pause(0.0, immediate=False).seconds == 0.05
    assert policy.pause(60.0, immediate=False).seconds == 0.2


def test_what_the_filesystem_asks_for_goes_before_the_policy() -> None:
    policy = PollPolicy(0.0001, 0.0005)
    assert policy.pause(0.0, immediate=False, least=0.001).seconds == 0.001
    assert policy.pause(60.0, immediate=False, least=0.001).seconds == 0.001
    assert POLICY.pause(60.0, immediate=False, least=0.001).seconds == POLICY.maximum
