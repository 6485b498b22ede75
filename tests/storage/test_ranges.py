"""Locks of ranges of bytes, as far as threads see them."""

from __future__ import annotations

import threading

import pytest

from muxfs.storage.ranges import Ranges

from .conftest import PATIENCE


def test_small_ranges_are_waited_for_until_they_are_unlocked() -> None:
    ranges, waited = Ranges(), threading.Event()
    assert ranges.try_acquire((0, 10))

    def wait() -> None:
        ranges.wait_for_small(10, PATIENCE)
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    ranges.release((0, 10))
    assert waited.wait(PATIENCE / 2)
    thread.join()


@pytest.mark.parametrize("held", [[], [(0, 11)], [(0, 6), (7, 12)]])
def test_nothing_and_large_ranges_are_not_waited_for(held: list[tuple[int, int]]) -> None:
    ranges = Ranges()
    for extent in held:
        assert ranges.try_acquire(extent)
    ranges.wait_for_small(10, threading.TIMEOUT_MAX)


def test_a_range_that_stays_is_waited_for_no_longer_than_allowed() -> None:
    ranges = Ranges()
    assert ranges.try_acquire((0, 1))
    ranges.wait_for_small(10, 0.001)
