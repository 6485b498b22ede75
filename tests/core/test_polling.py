"""How often the peer's file is looked at."""

from __future__ import annotations

import collections
import itertools
import random

from muxfs.core.polling import NAP_FOR, NEAR, PollPolicy

POLICY = PollPolicy(0.001, 1.0)


def test_pauses_grow_with_the_quiet_time_and_stay_within_limits() -> None:
    quiet = [0.0, 0.001, 0.01, 0.1, 1.0, 5.0, 16.0, 100.0]
    pauses = [POLICY.pause(seconds, immediate=False) for seconds in quiet]
    assert all(pause.nap == 0 for pause in pauses)
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(pauses))
    assert pauses[0].seconds == POLICY.minimum
    assert pauses[3].seconds == 0.1 * NEAR
    assert pauses[-2].seconds == POLICY.maximum
    assert pauses[-1].seconds == POLICY.maximum


def polls_until(quiet: float) -> list[float]:
    """When a side polls after traffic, in seconds."""
    times = [0.0]
    while times[-1] < quiet:
        times.append(times[-1] + POLICY.pause(times[-1], immediate=False).seconds)
    return times


def test_a_late_answer_is_at_most_a_fraction_later() -> None:
    for before, after in itertools.pairwise(polls_until(60.0)):
        assert after - before <= max(POLICY.minimum, before * NEAR) + 1e-9


def test_what_a_person_does_after_a_few_seconds_is_seen_soon() -> None:
    for seconds, most in ((1.0, 0.1), (2.0, 0.15), (5.0, 0.32), (10.0, 0.63)):
        assert POLICY.pause(seconds, immediate=False).seconds <= most


def test_going_cold_takes_few_polls() -> None:
    assert len(polls_until(16.0)) < 85


def test_a_hundred_tunnels_that_start_at_once_do_not_poll_in_step() -> None:
    chance = random.Random(1).random
    now = [0.0] * 100
    while (earliest := min(now)) < 600:
        tunnel = now.index(earliest)
        now[tunnel] += POLICY.pause(earliest, immediate=False, chance=chance()).seconds
    # each has its next poll within this second; without jitter all would have it at once
    tenths = collections.Counter(int(10 * time) for time in now)
    assert max(tenths.values()) < 35
    assert len({POLICY.pause(60.0, immediate=False).seconds for _ in now}) == 1


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
