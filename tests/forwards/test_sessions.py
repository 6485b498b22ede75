"""Several sessions of one end: streams go through whichever stands."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from muxfs import Session
from muxfs.forwards.sessions import Sessions
from muxfs.testing import MemoryFilesystem

from .harness import end


async def test_a_stream_goes_through_the_first_session_that_stands() -> None:
    first, second = MemoryFilesystem(), MemoryFilesystem()
    sessions = Sessions()
    async with end(first, "dial") as waiting, end(second, "dial") as other:
        with sessions.including(0, waiting), sessions.including(1, other):
            assert not sessions.established
            with pytest.raises(trio.BrokenResourceError):
                sessions.start_stream("early")
            async with end(second, "listen") as listen:
                await sessions.wait_can_open()
                assert sessions.established
                assert sessions.start_stream("one").session is other
                async with end(first, "listen"):
                    await waiting.wait_established()
                    assert sessions.start_stream("two").session is waiting
                assert (await listen.listen().accept()).target == "one"


async def test_those_who_wait_are_served_by_a_session_that_is_opened_later() -> None:
    fs = MemoryFilesystem()
    sessions = Sessions()
    served: list[int] = []
    all_served = trio.Event()

    async def wait(number: int) -> None:
        await sessions.wait_can_open()
        served.append(number)
        if len(served) == 3:
            all_served.set()

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        async with end(fs, "dial") as dial, end(fs, "listen"):
            with sessions.including(0, dial), trio.fail_after(5):
                await all_served.wait()
    assert served == [0, 1, 2]


async def test_each_session_is_told_once() -> None:
    sessions = Sessions()
    told: list[Session] = []

    async def note() -> None:
        async for session in sessions.each():
            told.append(session)  # noqa: PERF401  (each as it comes)

    async with (
        end(MemoryFilesystem(), "dial") as one,
        end(MemoryFilesystem(), "dial") as other,
        trio.open_nursery() as nursery,
    ):
        with sessions.including(3, one):
            nursery.start_soon(note)
            await trio.testing.wait_all_tasks_blocked()
            with sessions.including(1, other):
                await trio.testing.wait_all_tasks_blocked()
                assert list(sessions.by_number) == [1, 3]
        await trio.testing.wait_all_tasks_blocked()
        with sessions.including(3, one):
            await trio.testing.wait_all_tasks_blocked()
        assert told == [one, other, one]
        nursery.cancel_scope.cancel()
