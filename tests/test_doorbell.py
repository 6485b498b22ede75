"""A bell that is rung at a time."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from muxfs.doorbell import Alarm, Doorbell


async def test_it_rings_at_the_time_that_was_set_last(autojump_clock: MockClock) -> None:
    bell = Doorbell()
    alarm = Alarm(bell.ring)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        await wait_all_tasks_blocked()
        for times in ([5.0], [9.0, 3.0], [3.0, 9.0], [9.0, 3.0, 6.0]):
            began = trio.current_time()
            for seconds in times:
                alarm.set(began + seconds)
                await wait_all_tasks_blocked()
            await bell.wait()
            assert trio.current_time() - began == times[-1]
        with trio.move_on_after(100) as quiet:
            await bell.wait()
        assert quiet.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_a_time_that_has_passed_rings_at_once(autojump_clock: MockClock) -> None:
    bell = Doorbell()
    alarm = Alarm(bell.ring)
    await trio.sleep(10)
    alarm.set(1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        began = trio.current_time()
        await bell.wait()
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()
