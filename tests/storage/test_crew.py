"""Threads of a storage: a job's result or error comes back, and no thread stays behind."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from muxfs.storage.crew import Crew

from .conftest import PATIENCE, Gate, wait_until


def crew_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "muxfs storage"}


def descriptors() -> set[str]:
    return {
        entry
        for entry in os.listdir("/proc/self/fd")
        if "eventfd" in os.path.realpath(f"/proc/self/fd/{entry}")
    }


@pytest.fixture
async def gone() -> Callable[[], bool]:
    """Whether the threads and eventfds are gone that were made since."""
    threads, fds = crew_threads(), descriptors()
    return lambda: crew_threads() <= threads and descriptors() <= fds


async def test_a_job_runs_in_one_thread_after_the_other(gone: Callable[[], bool]) -> None:
    crew = Crew(2)
    names = [await crew.run(lambda _: threading.current_thread()) for _ in range(3)]
    assert len(set(names)) == 1
    assert names[0] is not threading.current_thread()
    crew.close()
    await wait_until(gone)


async def test_an_error_is_raised_and_the_thread_serves_on(gone: Callable[[], bool]) -> None:
    crew = Crew(1)

    def fail(_abandoned: threading.Event) -> None:
        raise OSError(5, "broken")

    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            await crew.run(fail)
        assert await crew.run(lambda _: 7) == 7
    crew.close()
    await wait_until(gone)


async def test_jobs_beyond_the_bound_wait_for_a_thread(gone: Callable[[], bool]) -> None:
    crew, gate, ran = Crew(1), Gate(), []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run, lambda _: gate.enter())
            await gate.wait_entered()
            nursery.start_soon(crew.run, lambda _: ran.append(1))
            await trio.testing.wait_all_tasks_blocked()
            assert not ran
            gate.opened.set()
    assert ran
    crew.close()
    await wait_until(gone)


async def test_an_abandoned_thread_ends_when_it_comes_back(gone: Callable[[], bool]) -> None:
    crew, gate = Crew(1), Gate()
    seen: list[bool] = []

    def job(abandoned: threading.Event) -> None:
        gate.enter()
        seen.append(abandoned.is_set())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run, job)
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
        assert crew.limiter.borrowed_tokens == 1
        gate.opened.set()
        await wait_until(lambda: not crew.limiter.borrowed_tokens)
        assert seen == [True]
        assert await crew.run(lambda _: 7) == 7
    crew.close()
    await wait_until(gone)


async def test_a_cancelled_caller_starts_nothing() -> None:
    crew, ran = Crew(1), []
    with trio.CancelScope() as scope:
        scope.cancel()
        await crew.run(lambda _: ran.append(1))
    assert not ran
    assert not crew.limiter.borrowed_tokens


async def test_a_crew_that_nobody_has_any_more_leaves_no_thread(gone: Callable[[], bool]) -> None:
    crew = Crew(1)
    await crew.run(lambda _: None)
    assert not gone()
    del crew
    gc.collect()
    await wait_until(gone)


async def test_a_closed_crew_still_does_jobs(gone: Callable[[], bool]) -> None:
    crew = Crew(1)
    crew.close()
    assert await crew.run(lambda _: 7) == 7
    await wait_until(gone)


async def test_a_job_that_is_begun_runs_before_anybody_waits(gone: Callable[[], bool]) -> None:
    crew, ran = Crew(1), threading.Event()
    begun = crew.begin(lambda _: ran.set())
    assert begun is not None
    assert ran.wait(PATIENCE)
    assert crew.begin(lambda _: None) is None  # there is but one thread
    await begun
    assert await crew.run(lambda _: 7) == 7
    crew.close()
    await wait_until(gone)


async def test_a_job_that_is_begun_is_abandoned_with_its_waiter(gone: Callable[[], bool]) -> None:
    crew, gate = Crew(1), Gate()
    begun = crew.begin(lambda _: gate.enter())
    assert begun is not None
    with trio.fail_after(PATIENCE):
        with trio.CancelScope() as scope:
            scope.cancel()
            await begun
        assert crew.limiter.borrowed_tokens == 1
        gate.opened.set()
        await wait_until(lambda: not crew.limiter.borrowed_tokens)
    crew.close()
    await wait_until(gone)


async def test_no_thread_to_be_had_is_an_os_error(monkeypatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    crew, before = Crew(1), descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            await crew.run(lambda _: None)
        assert crew.begin(lambda _: None) is None
    assert descriptors() == before
    assert await crew.run(lambda _: 7) == 7
    crew.close()


async def test_what_a_job_refers_to_is_let_go_with_it(gone: Callable[[], bool]) -> None:
    """Idle threads kept the megabytes that they had written last."""

    class Payload:
        """Stands for buffers."""

    crew, payload = Crew(1), Payload()
    left = weakref.ref(payload)
    await crew.run(lambda _, payload=payload: None)
    del payload
    await wait_until(lambda: left() is None)
    crew.close()
    await wait_until(gone)


async def test_a_thread_that_is_abandoned_as_it_wakes_up_closes_nothing_too_early(
    gone: Callable[[], bool], monkeypatch
) -> None:
    """Its descriptor may be a connection's by the time that it is told to end."""
    crew, awake, told = Crew(1), threading.Event(), threading.Event()
    looks: list[int] = []
    read, write = os.eventfd_read, os.eventfd_write
    loop = threading.current_thread()

    def read_slowly(fd: int) -> int:
        looks.append(fd)  # 1: for the job, 2: it did it, and waits for the next word
        value = read(fd)
        if threading.current_thread() is not loop:
            awake.set()
            assert told.wait(PATIENCE)
        return value

    def write_late(fd: int, value: int) -> None:
        if awake.is_set() and threading.current_thread() is loop:
            told.set()
            while len(looks) < 2 and not gone():
                pass
        write(fd, value)

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd_read", read_slowly)
        patch.setattr(os, "eventfd_write", write_late)
        begun = crew.begin(lambda _: None)
        assert begun is not None
        assert awake.wait(PATIENCE)
        with trio.CancelScope() as scope:
            scope.cancel()
            await begun
        await wait_until(gone)
    crew.close()
