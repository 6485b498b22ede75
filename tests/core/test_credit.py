"""Windows of one receiving direction."""

from __future__ import annotations

from muxfs.core.credit import (
    LEAST_TURN,
    MAX_WINDOW,
    ROUND_TRIPS,
    SHARE,
    ReceiveWindow,
    WindowBudget,
)

ROUND_TRIP = 1.0
SLOW = 10 * ROUND_TRIPS * ROUND_TRIP


def window(initial: int = 1000, budget: int = 1 << 30) -> ReceiveWindow:
    """Make a window."""
    return ReceiveWindow(WindowBudget(budget), initial)


def test_credit_is_due_when_half_is_taken() -> None:
    it = window()
    assert not it.consume(499, SLOW, ROUND_TRIP)
    assert it.consume(1, SLOW, ROUND_TRIP)
    assert (it.limit, it.size) == (1500, 1000)
    assert not it.consume(100, 2 * SLOW, ROUND_TRIP)


def test_a_window_of_one_byte_gives_credit() -> None:
    it = window(1)
    assert it.consume(1, SLOW, ROUND_TRIP)
    assert it.limit == 2


def test_a_window_that_is_taken_quickly_doubles() -> None:
    it = window()
    assert it.consume(500, ROUND_TRIP, ROUND_TRIP)
    assert (it.size, it.limit) == (2000, 2500)


def test_a_window_that_is_taken_slowly_stays() -> None:
    it = window()
    assert it.consume(500, SLOW, ROUND_TRIP)
    assert it.size == 1000


def test_the_shortest_round_trips_do_not_count() -> None:
    it = window()
    assert it.consume(500, LEAST_TURN / 2, 1e-6)
    assert it.size == 2000


def test_windows_grow_to_their_limit() -> None:
    it = window(64 << 10)
    now = 0.0
    for _ in range(100):
        now += ROUND_TRIP
        it.consume(it.limit - it.consumed, now, ROUND_TRIP)
    assert it.size == MAX_WINDOW


def test_the_budget_limits_all_windows_together_and_gets_back_what_grew() -> None:
    budget = WindowBudget(SHARE * 1000 + 500)
    one, two = ReceiveWindow(budget, 1000), ReceiveWindow(budget, 1000)
    one.consume(500, ROUND_TRIP, ROUND_TRIP)
    two.consume(500, ROUND_TRIP, ROUND_TRIP)
    assert (one.size, two.size, budget.room) == (2000, 1000, SHARE * 1000 - 500)
    one.release()
    assert budget.room == SHARE * 1000 + 500
    one.release()
    assert budget.room == SHARE * 1000 + 500


def test_streams_that_once_carried_bulk_leave_room_for_later_ones() -> None:
    budget = WindowBudget()
    windows = [ReceiveWindow(budget, 64 << 10) for _ in range(10)]
    for it in windows:  # one after the other, and idle since
        for second in range(100):
            it.consume(it.limit - it.consumed, float(second), ROUND_TRIP)
    sizes = [it.size for it in windows]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == MAX_WINDOW
    assert sizes[-1] >= 16 * (64 << 10)
