"""How a session ends, and what comes out of `open_session`."""

# ruff: noqa: PT012  (what is raised by leaving a block needs the block)

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import muxfs
from muxfs import Code, MuxStream, SessionError, SessionState, StreamRefused, StreamReset
from muxfs.core import wire
from muxfs.core.stream import Ending
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import (
    CAPACITY,
    HEARTBEAT,
    LISTEN,
    TIMEOUT,
    Tunnel,
    open_side,
    open_tunnel,
    read_all,
    start_life,
    storage,
)


class Mine(Exception):
    """An exception of the user."""


class MyInterrupt(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


# Exceptions of the body


@pytest.mark.parametrize("error", [Mine(), MyInterrupt(), StopAsyncIteration(), StopIteration()])
async def test_the_bodys_exception_passes_unchanged(
    autojump_clock: MockClock, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_tunnel():
            raise error
    assert caught.value is error


async def test_the_bodys_group_passes_unchanged(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        raise Mine

    with pytest.raises(ExceptionGroup) as caught:
        async with open_tunnel(), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
    assert [type(error) for error in caught.value.exceptions] == [Mine]


async def test_an_outer_cancellation_passes_and_the_other_side_is_told(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen:
        changes = listen.changes()
        with trio.move_on_after(30) as scope:
            async with open_side(fs, "dial"):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(30, abs=0.1)
        with trio.fail_after(3):
            async for change in changes:
                if isinstance(change, muxfs.Lost):
                    assert (change.code, change.reason) == (Code.SHUTDOWN, "the other side ended")
                    return


async def test_the_bodys_exception_is_not_lost_in_an_outer_cancellation(
    autojump_clock: MockClock,
) -> None:
    with trio.CancelScope() as scope, pytest.raises(Mine):
        async with open_tunnel():
            scope.cancel()
            raise Mine


async def test_a_cancelled_task_of_the_bodys_nursery(autojump_clock: MockClock) -> None:
    async with open_tunnel():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()
        await trio.sleep(1)


# Failures of the session


def spoil(fs: MemoryFilesystem) -> None:
    """Let the listen side's next batch be an impossible one, although its checksum is right."""
    fs.files[LISTEN].write(0, [impossible_birth()])
    fs.notify()


def impossible_birth() -> bytes:
    birth = wire.Birth(
        role=wire.Role.LISTEN,
        incarnation=wire.Incarnation(99, bytes(16)),
        capacity=CAPACITY,
        max_batch=wire.DEFAULT_MAX_BATCH,
        max_streams=1,
        initial_credit=1,
        heartbeat=5000,
        peer_timeout=1,
    )
    return wire.encode_birth(birth)


async def sleep_alone() -> None:
    await trio.sleep_forever()


async def sleep_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(trio.sleep_forever)


async def sleep_in_nested_nurseries() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep_in_a_nursery)
        await sleep_in_a_nursery()


async def return_at_once() -> None:
    await trio.sleep(3)


@pytest.mark.parametrize(
    "body", [sleep_alone, sleep_in_a_nursery, sleep_in_nested_nurseries, return_at_once]
)
async def test_a_failure_cancels_the_body_and_is_raised_once(
    autojump_clock: MockClock, body: Callable[[], object]
) -> None:
    fs = MemoryFilesystem()
    with trio.fail_after(30), pytest.raises(SessionError) as caught:
        async with open_side(fs, "listen"), open_side(fs, "dial") as dial:
            await dial.wait_established()
            await trio.sleep(10)  # a young one would mend it before it is seen
            spoil(fs)
            await body()  # type: ignore[misc]
    assert caught.value.code is Code.PROTOCOL
    assert "limits" in str(caught.value)


async def test_the_bodys_own_exception_wins_over_the_failure(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    with pytest.raises(Mine):
        async with open_side(fs, "listen"), open_side(fs, "dial") as dial:
            await dial.wait_established()
            await trio.sleep(10)  # a young one would mend it before it is seen
            spoil(fs)
            try:
                await trio.sleep_forever()
            finally:
                raise Mine


async def test_a_failure_beside_exceptions_of_the_bodys_nursery(
    autojump_clock: MockClock,
) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Mine

    fs = MemoryFilesystem()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_side(fs, "listen"), open_side(fs, "dial") as dial:
            await dial.wait_established()
            await trio.sleep(10)  # a young one would mend it before it is seen
            spoil(fs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)
    assert [type(error) for error in caught.value.exceptions] == [Mine]


async def test_the_other_side_learns_of_a_failure(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen:
        changes = listen.changes()
        with pytest.raises(SessionError):
            async with open_side(fs, "dial") as dial:
                await listen.wait_established()
                await dial.wait_established()
                dial.engine._fail(Ending(Code.PROTOCOL, "for a test"))
                dial.pump.kick_writer()
                await trio.sleep_forever()
        with trio.fail_after(5):
            async for change in changes:
                if isinstance(change, muxfs.Lost):
                    assert change == muxfs.Lost(Code.PROTOCOL, "for a test")
                    return


# Leaving in good order


async def test_what_was_sent_and_closed_right_before_leaving_arrives(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem(latency=0.02, visibility=0.5)
    received: list[bytes] = []
    data = bytes(range(256)) * 1000

    async def receive(stream: MuxStream) -> None:
        async with stream:
            received.append(await read_all(stream))

    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, receive, [listen.listen()])
        async with open_side(fs, "dial") as dial:
            for _ in range(5):
                stream = await dial.open_stream()
                await stream.send_all(data)
                await stream.aclose()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert received == [data] * 5


async def test_a_slow_reader_still_gets_all_of_what_was_closed(
    autojump_clock: MockClock,
) -> None:
    """All of it is under way within the flush: the reader takes it after the session's end."""
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen:
        async with open_side(fs, "dial") as dial:
            stream = await open_unheard(dial, listen)
            await stream[0].send_all(b"x" * 60_000)
            await stream[0].aclose()
        await trio.sleep(30)
        assert await read_all(stream[1]) == b"x" * 60_000


async def open_unheard(near: muxfs.Session, far: muxfs.Session) -> tuple[MuxStream, MuxStream]:
    await near.wait_established()
    await far.wait_established()
    return await Tunnel(MemoryFilesystem(), far, near).stream_pair()


async def test_streams_end_when_the_other_side_leaves(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen:
        async with open_side(fs, "dial") as dial:
            _, far = await open_unheard(dial, listen)
            left = trio.current_time()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.receive_some()
        cause = caught.value.__cause__
        assert isinstance(cause, StreamReset)
        assert cause.code is Code.SHUTDOWN
        assert trio.current_time() - left < 1.5
        assert listen.state is SessionState.WAITING


async def test_streams_end_when_this_side_leaves(autojump_clock: MockClock) -> None:
    async with open_tunnel() as tunnel:
        near, far = await tunnel.stream_pair()
    for stream in (near, far):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        await stream.aclose()


@pytest.mark.parametrize("established", [True, False])
@pytest.mark.parametrize("hung", [True, False])
async def test_whoever_uses_a_session_that_is_over_learns_it(
    autojump_clock: MockClock, established: bool, hung: bool
) -> None:
    fs = MemoryFilesystem()
    learnt: list[str] = []

    async def expect(name: str, error: type[Exception], call: Callable[[], object]) -> None:
        with pytest.raises(error):
            await call()  # type: ignore[misc]
        learnt.append(name)

    async with trio.open_nursery() as nursery:
        if established:
            await start_life(nursery, fs, "listen")
        async with open_side(fs, "dial") as session:
            changes = session.changes()
            if established:
                await session.wait_established()
                nursery.start_soon(expect, "open", StreamRefused, session.open_stream)
            else:
                nursery.start_soon(expect, "open", SessionError, session.open_stream)
                nursery.start_soon(expect, "wait", SessionError, session.wait_established)
                nursery.start_soon(expect, "can", SessionError, session.wait_can_open)
            listener = session.listen()
            nursery.start_soon(expect, "accept", trio.ClosedResourceError, listener.accept)
            await trio.sleep(1)
            if hung:
                fs.stop()
                await trio.sleep(2 * HEARTBEAT)  # a status is being written
        await trio.sleep(0.01)
        assert len(learnt) == (2 if established else 4)
        assert session.state is SessionState.CLOSED
        with pytest.raises(SessionError):
            await session.open_stream()
        with pytest.raises(SessionError):
            await session.wait_established()
        with pytest.raises(trio.ClosedResourceError):
            await session.listen().accept()
        with pytest.raises(trio.BrokenResourceError):
            session.start_stream()
        assert [type(change) async for change in changes][-1:] in ([], [muxfs.Lost])
        nursery.cancel_scope.cancel()


async def test_leaving_waits_for_as_long_as_bytes_arrive(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=1.0, visibility=2.0)
    async with open_side(fs, "listen") as listen:
        async with open_side(fs, "dial") as dial:
            pairs = [await open_unheard(dial, listen) for _ in range(20)]
            assert 6 < (dial.stats().round_trip or 0) < 12  # longer than a heartbeat
            start = trio.current_time()
            for near, _ in pairs:
                await near.send_all(bytes(60_000))
                await near.aclose()
        assert trio.current_time() - start > 5
        for _, far in pairs:
            assert len(await read_all(far)) == 60_000


async def test_leaving_does_not_wait_for_a_reader_that_stands_still(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen:
        async with open_side(fs, "dial") as dial:
            near, far = await open_unheard(dial, listen)
            await near.send_all(bytes(300_000))
            await near.aclose()
            start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(5, abs=1)
        with pytest.raises(trio.BrokenResourceError):
            await read_all(far)  # truncated data never looks complete


# Hung storage


async def test_opening_on_a_hung_storage_can_be_cancelled(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    fs.stop()
    with trio.move_on_after(7) as scope:
        async with open_side(fs, "dial"):
            raise AssertionError("it cannot open")
    assert scope.cancelled_caught
    assert trio.current_time() == 7


@pytest.mark.parametrize("cancelled", [True, False])
async def test_leaving_on_a_hung_storage_takes_seconds(
    autojump_clock: MockClock, cancelled: bool
) -> None:
    async with trio.open_nursery() as nursery:
        fs = MemoryFilesystem()
        await start_life(nursery, fs, "listen")
        with trio.CancelScope() as scope:
            async with open_side(fs, "dial") as dial:
                await dial.wait_established()
                stream = dial.start_stream()
                await stream.send_all(b"x")
                await trio.sleep(1)
                await stream.send_all(b"x")
                fs.stop()
                start = trio.current_time()
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()
        assert trio.current_time() - start <= (2.1 if cancelled else 7.1)
        nursery.cancel_scope.cancel()


# Nothing is left behind


async def test_no_task_is_left_behind(autojump_clock: MockClock) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with open_tunnel() as tunnel:
        await tunnel.stream_pair()
        assert trio.lowlevel.current_statistics().tasks_living > before
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_real_files_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    await visit_files(tmp_path)  # what is made once per process
    descriptors, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await visit_files(tmp_path)
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
    assert threading.active_count() <= threads + 1  # trio keeps idle ones for ten seconds


async def visit_files(path: Path) -> None:
    config = muxfs.SessionConfig(capacity=256 << 10)
    async with (
        muxfs.open_session(path, role="listen", config=config) as listen,
        muxfs.open_session(path, role="dial", config=config) as dial,
    ):
        near, far = await open_unheard(dial, listen)
        await near.send_all(b"over real files")
        await near.send_eof()
        assert await read_all(far) == b"over real files"
        await near.aclose()
        await far.aclose()


# Arguments


async def test_an_unknown_role() -> None:
    with pytest.raises(ValueError, match="role"):
        async with open_side(MemoryFilesystem(), "server"):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(
    "settings",
    [
        {"capacity": (256 << 10) - 4096},
        {"capacity": (1 << 30) + 4096},
        {"capacity": (1 << 20) + 1},
        {"max_streams": -1},
        {"initial_credit": -1},
        {"heartbeat": 0.0},
        {"peer_timeout": -1.0},
    ],
)
def test_a_config_that_the_other_side_would_not_take(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        muxfs.SessionConfig(**settings)  # type: ignore[arg-type]


async def test_errors_of_the_storage_pass_out_of_opening(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match="No space left"):
        async with open_side(MemoryFilesystem(capacity=CAPACITY), "dial"):
            pass


async def test_several_sessions_in_nested_nurseries(autojump_clock: MockClock) -> None:
    async def one(number: int) -> None:
        async with open_tunnel() as tunnel, trio.open_nursery() as nursery:
            near, far = await tunnel.stream_pair()
            async with near, far:
                nursery.start_soon(near.send_all, b"%d" % number * 1000)
                received = b""
                while len(received) < 1000 * len(str(number)):
                    received += await far.receive_some()
                assert received == b"%d" % number * 1000

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)


def test_it_runs_as_a_guest_of_another_loop() -> None:
    import queue

    calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    outcomes: list[object] = []

    async def main() -> bytes:
        async with open_tunnel() as tunnel:
            near, far = await tunnel.stream_pair()
            await near.send_all(b"from a guest")
            return bytes(await far.receive_some())

    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=calls.put,
        done_callback=lambda outcome: outcomes.append(outcome.unwrap()),
    )
    while not outcomes:
        calls.get()()
    assert outcomes == [b"from a guest"]


def test_a_timeout_of_zero_is_never() -> None:
    assert muxfs.SessionConfig(peer_timeout=0).engine_config().peer_timeout == 0
    assert muxfs.SessionConfig().engine_config().peer_timeout == TIMEOUT * 1000
    assert storage(MemoryFilesystem(), "dial").describe() == "memory"


async def test_readers_of_changes_that_left_are_forgotten(autojump_clock: MockClock) -> None:
    async with open_tunnel() as tunnel:
        for _ in range(10):
            tunnel.dial.changes().close()
        assert len(tunnel.dial._subscribers) <= 1
