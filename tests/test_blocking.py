"""Calls that may block, in threads."""

from __future__ import annotations

import errno
import subprocess
import threading

import pytest
import trio
import trio.testing

from muxfs.blocking import in_own_thread, in_thread, open_process

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
    with pytest.raises(OSError, match="can't start new thread") as caught:
        await open_process(["true"])
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("kind", [NotImplementedError, RecursionError, RuntimeError])
async def test_what_is_wrong_in_a_call_itself_is_no_want_of_threads(kind: type[Exception]) -> None:
    def call() -> None:
        raise kind("a mistake")

    for run in (in_thread, in_own_thread):
        with pytest.raises(kind, match="a mistake"):
            await run(call)


async def test_a_command_runs_and_one_that_is_missing_is_an_error() -> None:
    process = await open_process(
        ["sh", "-c", "echo $WORD"], stdout=subprocess.PIPE, env={"WORD": "x"}
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"x\n"
    assert await process.wait() == 0
    with pytest.raises(FileNotFoundError):
        await open_process(["/no/such/thing"])


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
