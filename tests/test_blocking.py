"""Calls that may block, in threads."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
import trio.testing

from muxfs.blocking import in_own_thread, in_thread

PATIENCE = 60.0


async def test_what_a_call_returns_and_raises() -> None:
    assert await in_thread(int, "12", base=3) == 5
    assert await in_own_thread(int, "12", base=3) == 5
    with pytest.raises(FileNotFoundError):
        await in_thread(open, "/nonexistent")


@pytest.mark.usefixtures("no_threads")
async def test_no_thread_is_an_error_of_the_system() -> None:
    for run in (in_thread, in_own_thread):
        with pytest.raises(OSError, match="can't start new thread") as caught:
            await run(int)
        assert caught.value.errno == errno.EAGAIN


async def test_a_call_that_hangs_is_left_alone_and_delays_none_with_a_thread_of_its_own() -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    release = threading.Event()
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, release.wait)
                await trio.testing.wait_all_tasks_blocked()
                assert await in_own_thread(int) == 0
                nursery.cancel_scope.cancel()
    finally:
        release.set()
        limiter.total_tokens = before
