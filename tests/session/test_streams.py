"""The contract of streams that trio's own checks do not look at."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from muxfs import Code, MuxStream, StreamEnded, StreamRefused, StreamReset
from muxfs.core.multiplexer import Filling, Multiplexer
from muxfs.core.stream import SEND_BUFFER
from muxfs.core.wire import DEFAULT_INITIAL_CREDIT, MAX_PENDING_OPENS, Buffer, Role
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import Tunnel, open_side, open_tunnel, read_all

Ends = tuple[MuxStream, MuxStream]

HOLDS = DEFAULT_INITIAL_CREDIT + SEND_BUFFER
TOO_MUCH = 8 << 20
"""What a stream takes without anybody reading."""


@pytest.fixture
async def ends(tunnel: Tunnel) -> AsyncIterator[Ends]:
    near, far = await tunnel.stream_pair("localhost:8888")
    async with near, far:
        yield near, far


async def reset_reason(call: Callable[[], Awaitable[object]]) -> StreamReset:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await call()
    assert isinstance(caught.value.__cause__, StreamReset)
    return caught.value.__cause__


# Checkpoints


async def test_every_method_is_a_checkpoint(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    listener = tunnel.listen.listen()
    with assert_checkpoints():
        await tunnel.dial.wait_established()
    with assert_checkpoints():
        await tunnel.dial.wait_can_open()
    near = tunnel.dial.start_stream()
    await wait_all_tasks_blocked()
    await trio.sleep(5)
    with assert_checkpoints():  # a stream waits already
        far = await listener.accept()
    with assert_checkpoints():
        await near.wait_accepted()
    with assert_checkpoints():
        await far.accept()  # again is no harm
    for data in (b"", b"x", bytearray(b"y"), memoryview(b"z")):
        with assert_checkpoints():
            await near.send_all(data)
    with assert_checkpoints():
        await near.wait_send_all_might_not_block()
    await trio.sleep(5)
    with assert_checkpoints():  # bytes are there already
        assert await far.receive_some(1) == b"x"
    with assert_checkpoints():
        assert bytes(await far.receive_buffer(1)) == b"y"
    for _ in range(2):
        with assert_checkpoints():
            await near.send_eof()
    await trio.sleep(5)
    assert await far.receive_some() == b"z"
    for _ in range(2):
        with assert_checkpoints():
            assert await far.receive_some() == b""
    for _ in range(2):
        with assert_checkpoints():
            await near.aclose()
        with assert_checkpoints():
            await far.abort()
        with assert_checkpoints():
            await far.refuse(Code.REFUSED)
        with assert_checkpoints():
            await listener.aclose()


async def test_open_stream_is_a_checkpoint(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, MuxStream.aclose, [tunnel.listen.listen()])
        with assert_checkpoints():
            await tunnel.dial.open_stream()
        nursery.cancel_scope.cancel()


# Cancellation loses nothing


async def test_a_cancelled_receive_loses_no_byte(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    sent = bytes(range(256)) * 40
    received = bytearray()

    async def send_slowly() -> None:
        for at in range(0, len(sent), 64):
            await near.send_all(sent[at : at + 64])
            await trio.sleep(0.013)
        await near.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_slowly)
        for turn in range(100_000):
            with trio.move_on_after((turn % 7) / 1000):
                part = await far.receive_some(50)
                received += part
                if not part:
                    break
    assert bytes(received) == sent


async def test_a_receive_that_is_cancelled_before_it_begins(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    await near.send_all(b"kept")
    await trio.sleep(5)
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive_some()
    assert scope.cancelled_caught
    assert await far.receive_some() == b"kept"


async def test_a_cancelled_accept_loses_no_stream(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    listener = tunnel.listen.listen()
    targets: list[str] = []

    async def open_slowly() -> None:
        for number in range(50):
            await tunnel.dial.open_stream(str(number))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_slowly)
        turn = 0
        while len(targets) < 50:
            turn += 1
            with trio.move_on_after((turn % 7) / 1000):
                stream = await listener.accept()
                targets.append(stream.target)
    assert targets == [str(number) for number in range(50)]


async def test_a_cancelled_open_ends_the_stream_at_the_far_side(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    with trio.move_on_after(1) as scope:  # nobody listens yet
        await tunnel.dial.open_stream("first")
    assert scope.cancelled_caught
    stream = await tunnel.listen.listen().accept()
    assert stream.target == "first"
    assert (await reset_reason(stream.receive_some)).code is Code.CANCELLED
    assert (await reset_reason(lambda: stream.send_all(b"x"))).code is Code.CANCELLED
    await stream.aclose()
    await trio.sleep(5)
    assert tunnel.dial.stats().streams == tunnel.listen.stats().streams == 0


async def cancel_halfway(stream: MuxStream) -> None:
    """Cancel a send that has queued some of its bytes, and not all."""
    with trio.move_on_after(1) as scope:
        await stream.send_all(bytes(TOO_MUCH))
    assert scope.cancelled_caught


async def test_a_send_that_was_cancelled_halfway_ends_in_a_reset(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    await cancel_halfway(near)
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await read_all(far)


async def test_after_a_send_that_was_cancelled_halfway_nothing_goes_on(
    autojump_clock: MockClock, ends: Ends
) -> None:
    """Neither with a hole in the middle, nor to an end that looks clean."""
    near, far = ends
    await cancel_halfway(near)
    with pytest.raises(trio.BrokenResourceError, match="cancelled"):
        await near.send_eof()
    with pytest.raises(trio.BrokenResourceError, match="cancelled"):
        await near.send_all(b"more")
    with pytest.raises(trio.BrokenResourceError, match="cancelled"):
        near.send_now(b"more")
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await read_all(far)


async def test_closing_while_another_task_is_halfway_through_a_send_is_a_reset(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(bytes(TOO_MUCH))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1)
        await near.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(far)


async def test_a_send_that_was_cancelled_before_it_began_does_no_harm(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    await near.send_all(bytes(HOLDS))
    with trio.move_on_after(1) as scope:
        await near.send_all(b"never")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.aclose)
        assert len(await read_all(far)) == HOLDS


async def test_a_cancelled_close_is_a_reset(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    await near.send_all(b"half of it")
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"")
    with pytest.raises(trio.BrokenResourceError):
        await read_all(far)


# Misuse


async def test_two_tasks_cannot_send(autojump_clock: MockClock, ends: Ends) -> None:
    near, _ = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(TOO_MUCH))
        await wait_all_tasks_blocked()
        for call in (
            lambda: near.send_all(b""),
            near.wait_send_all_might_not_block,
            near.send_eof,
        ):
            with pytest.raises(trio.BusyResourceError):
                await call()
        nursery.cancel_scope.cancel()


async def test_two_tasks_cannot_receive(autojump_clock: MockClock, ends: Ends) -> None:
    near, _ = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await near.receive_some()
        with pytest.raises(trio.BusyResourceError):
            await near.receive_buffer(10)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:  # and afterwards one of them can
        nursery.start_soon(near.receive_some)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_closing_wakes_the_tasks_that_wait(autojump_clock: MockClock, ends: Ends) -> None:
    near, _ = ends

    async def expect_closed(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, near.receive_some)
        nursery.start_soon(expect_closed, lambda: near.send_all(bytes(TOO_MUCH)))
        await wait_all_tasks_blocked()
        await near.aclose()


async def test_a_target_that_is_too_long(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    with pytest.raises(ValueError, match="target"):
        await tunnel.dial.open_stream("x" * 1025)
    _, far = await tunnel.stream_pair("x" * 1024)
    assert far.target == "x" * 1024


# Data


@pytest.mark.parametrize("length", [10, 100_000, HOLDS + 100_000])
@pytest.mark.parametrize("kind", [bytearray, lambda n: memoryview(bytearray(n))])
async def test_the_callers_buffer_may_change_after_send_all(
    autojump_clock: MockClock,
    ends: Ends,
    kind: Callable[[int], bytearray | memoryview],
    length: int,
) -> None:
    near, far = ends
    data = kind(length)
    data[:] = b"a" * length
    received = bytearray()

    async def receive() -> None:
        while len(received) < length:
            received.extend(await far.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await near.send_all(data)
        data[:] = b"b" * length
    assert received == b"a" * length


async def test_a_memoryview_of_larger_items(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    await near.send_all(memoryview(bytes(range(16))).cast("I"))
    await near.send_eof()
    assert await read_all(far) == bytes(range(16))


async def test_data_then_the_end_and_the_other_direction_goes_on(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    await near.send_all(b"request")
    await near.send_eof()
    assert await read_all(far) == b"request"
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"more")
    await far.send_all(b"reply")
    await far.aclose()
    assert await read_all(near) == b"reply"


async def test_received_bytes_are_delivered_before_a_reset(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    await near.send_all(b"response")
    await near.abort(Code.BROKEN, "connection reset by the service")
    await trio.sleep(5)
    assert await far.receive_some() == b"response"
    for _ in range(2):
        reason = await reset_reason(far.receive_some)
        assert (reason.code, reason.reason) == (Code.BROKEN, "connection reset by the service")
    for _ in range(2):
        assert (await reset_reason(lambda: far.send_all(b"x"))).code is Code.BROKEN
        assert (await reset_reason(far.wait_send_all_might_not_block)).code is Code.BROKEN
        assert (await reset_reason(far.send_eof)).code is Code.BROKEN


async def test_the_senders_error_is_sticky(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    await far.aclose()
    await trio.sleep(5)
    for data in (b"x", b"", b"y"):
        assert (await reset_reason(lambda data=data: near.send_all(data))).code is Code.CANCELLED
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")


async def test_closing_leaves_nothing_behind(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    for turn in range(20):
        near, far = await tunnel.stream_pair()
        await near.send_all(bytes(1000))
        if turn % 2:
            await near.aclose()
            await far.aclose()
        else:
            await far.abort()
            await near.aclose()
    await trio.sleep(5)
    for session in (tunnel.dial, tunnel.listen):
        assert session.stats().streams == 0
        assert session.stats().opened == 20
        assert not session._streams


# Opening


async def test_a_refusal_has_code_and_reason(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    listener = tunnel.listen.listen(auto_accept=False)

    async def refuse() -> None:
        stream = await listener.accept()
        await stream.refuse(Code.REFUSED, "nothing is listening there")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(StreamRefused) as caught:
            await tunnel.dial.open_stream("localhost:1")
    error = caught.value
    assert isinstance(error, StreamEnded)
    assert error.errno == errno.ECONNREFUSED
    assert (error.code, error.reason) == (Code.REFUSED, "nothing is listening there")
    assert error.strerror == "nothing is listening there"
    await trio.sleep(5)
    assert tunnel.dial.stats().streams == tunnel.listen.stats().streams == 0


async def test_accepting_by_hand(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    listener = tunnel.listen.listen(auto_accept=False)
    near = tunnel.dial.start_stream("db:5432")
    await near.send_all(b"early")
    far = await listener.accept()
    assert await far.receive_some() == b"early"
    with trio.move_on_after(5) as scope:
        await near.wait_accepted()
    assert scope.cancelled_caught
    await far.accept("10.0.0.7:5432")
    await far.send_all(b"hello")
    assert await near.wait_accepted() == "10.0.0.7:5432"
    assert await near.receive_some() == b"hello"


async def test_who_sends_before_accepting_harms_no_other_stream(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    listener = tunnel.listen.listen(auto_accept=False)
    first, second = tunnel.dial.start_stream(), tunnel.dial.start_stream()
    far, refused = await listener.accept(), await listener.accept()
    for stream in (far, refused):
        await stream.send_all(b"hello")
    await refused.aclose()
    with pytest.raises(StreamRefused):
        await second.wait_accepted()
    await far.send_eof()
    await far.accept()
    assert await read_all(first) == b"hello"


@pytest.mark.parametrize("end", ["aclose", "abort", "cancelled aclose"])
async def test_an_unanswered_stream_that_is_closed_is_refused(
    autojump_clock: MockClock, tunnel: Tunnel, end: str
) -> None:
    listener = tunnel.listen.listen(auto_accept=False)

    async def give_up() -> None:
        # more than may be unanswered at once: each must be counted as answered
        for _ in range(MAX_PENDING_OPENS + 10):
            stream = await listener.accept()
            if end == "abort":
                await stream.abort(Code.INTERNAL)
                continue
            with trio.CancelScope() as scope:
                if end != "aclose":
                    scope.cancel()
                await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        for _ in range(MAX_PENDING_OPENS + 10):
            with pytest.raises(StreamRefused) as caught:
                await tunnel.dial.open_stream()
            assert caught.value.code is (Code.INTERNAL if end == "abort" else Code.CANCELLED)


async def test_streams_wait_for_somebody_who_listens(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    async def open_and_send(number: int) -> None:
        stream = await tunnel.dial.open_stream(str(number))
        await stream.send_all(str(number).encode())
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(open_and_send, number)
        await trio.sleep(30)
        listener = tunnel.listen.listen()
        for _ in range(10):
            stream = await listener.accept()
            assert await read_all(stream) == stream.target.encode()


async def test_closing_the_listener_refuses_the_streams_that_wait(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    listener = tunnel.listen.listen()

    async def expect_refused() -> None:
        with pytest.raises(StreamRefused) as caught:
            await tunnel.dial.open_stream()
        assert caught.value.code is Code.REFUSED

    async def expect_closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await other.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_refused)
        await trio.sleep(5)
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    other = tunnel.listen.listen()  # and again
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed)
        await wait_all_tasks_blocked()
        await other.aclose()


async def test_more_streams_than_may_be_unanswered_at_once(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    opened: list[MuxStream] = []

    async def open_one() -> None:
        opened.append(await tunnel.dial.open_stream())

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, hold, [tunnel.listen.listen()])
        with trio.fail_after(60):
            async with trio.open_nursery() as openers:
                for _ in range(MAX_PENDING_OPENS + 44):
                    openers.start_soon(open_one)
        assert len(opened) == MAX_PENDING_OPENS + 44
        nursery.cancel_scope.cancel()


async def hold(stream: MuxStream) -> None:
    await trio.sleep_forever()


async def test_more_streams_than_the_other_side_allows(autojump_clock: MockClock) -> None:
    async with open_tunnel(max_streams=10) as tunnel, trio.open_nursery() as nursery:
        done: list[int] = []

        async def visit(number: int) -> None:
            stream = await tunnel.dial.open_stream()
            await stream.send_all(b"x")
            await trio.sleep(1)
            await stream.aclose()
            done.append(number)

        await nursery.start(trio.serve_listeners, read_all_and_close, [tunnel.listen.listen()])
        with trio.fail_after(300):
            async with trio.open_nursery() as visitors:
                for number in range(35):
                    visitors.start_soon(visit, number)
        assert len(done) == 35
        nursery.cancel_scope.cancel()


async def read_all_and_close(stream: MuxStream) -> None:
    async with stream:
        await read_all(stream)


async def test_no_start_before_the_session_stands(autojump_clock: MockClock) -> None:
    async with open_side(MemoryFilesystem(), "dial") as session:
        with pytest.raises(trio.BrokenResourceError):
            session.start_stream()


async def test_closing_an_unanswered_stream_with_more_than_its_credit_queued(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    near = tunnel.dial.start_stream()
    await near.send_all(bytes(HOLDS))
    await near.aclose()
    await trio.sleep(5)
    far = await tunnel.listen.listen().accept()
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")
    await far.aclose()
    await trio.sleep(5)
    for session in (tunnel.dial, tunnel.listen):
        assert session.state.value == "established"
        assert session.stats().streams == 0


def test_no_data_overtakes_an_open_for_which_there_is_no_room() -> None:
    streams = Multiplexer(Role.DIAL, 10, 1 << 16, 10, 1 << 16)
    streams.send(streams.open("x" * 100), b"data")
    filling = Filling(room=80)  # enough for the data, as at the end of the ring
    streams.fill(filling, 1 << 20)
    assert filling.count == 0


async def test_a_stream_is_opened_before_its_first_byte_also_at_the_end_of_the_ring(
    autojump_clock: MockClock,
) -> None:
    async def echo(stream: MuxStream) -> None:
        async with stream:
            await stream.send_all(await read_all(stream))

    async with open_tunnel(capacity=256 << 10) as tunnel, trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, echo, [tunnel.listen.listen()])
        for length in range(1000):
            stream = tunnel.dial.start_stream("target" * 100)
            await stream.send_all(bytes(length % 64))
            await stream.send_eof()
            assert len(await read_all(stream)) == length % 64
            await stream.aclose()
        nursery.cancel_scope.cancel()


# What waits for bytes may take them at once


async def test_small_pieces_go_to_the_sink_from_the_task_that_read_them(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends
    seen, taken = trio.open_memory_channel[tuple[bytes, str]](10)

    def sink(data: Buffer) -> Buffer:
        seen.send_nowait((bytes(data), trio.lowlevel.current_task().name))
        return b""

    async def receive() -> None:
        assert await far.receive_buffer(100, sink) == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, name="receiver")
        await wait_all_tasks_blocked()
        for data in (b"one", b"two"):
            await near.send_all(data)
            got, task = await taken.receive()
            assert got == data
            assert task != "receiver"
        await near.send_eof()
    seen.close()


@pytest.mark.parametrize("large", [False, True])
async def test_what_the_sink_does_not_take_is_returned(
    autojump_clock: MockClock, ends: Ends, large: bool
) -> None:
    near, far = ends
    data = b"0123456789" * (5000 if large else 1)
    given: list[int] = []

    def sink(data: Buffer) -> Buffer:
        given.append(len(data))
        return memoryview(data)[3:]

    await near.send_all(data)
    await near.send_eof()
    got = b""
    while more := await far.receive_buffer(1 << 20, sink):
        got += bytes(more)
    assert got.endswith(data[-7:])
    assert len(got) + 3 * len(given) == len(data)


async def test_what_the_sink_raises_is_raised_where_its_task_waits(
    autojump_clock: MockClock, ends: Ends
) -> None:
    near, far = ends

    def sink(_: Buffer) -> Buffer:
        raise ConnectionResetError(errno.ECONNRESET, "gone")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"x")
        with pytest.raises(ConnectionResetError):
            await far.receive_buffer(100, sink)
    await near.send_all(b"y")
    assert await far.receive_some() == b"y"  # the stream itself is whole


async def test_a_sink_that_is_fed_needs_no_task(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    got: list[bytes] = []

    def sink(data: Buffer) -> Buffer:
        got.append(bytes(data))
        return b""

    def overflow() -> None:
        raise AssertionError("nothing is left")

    await near.send_all(b"before")
    await trio.sleep(0.1)
    far.feed(sink, overflow)
    assert got == [b"before"]
    await near.send_all(b"after")
    await trio.sleep(0.1)
    assert got == [b"before", b"after"]
    await near.send_eof()
    await trio.sleep(0.1)
    assert got == [b"before", b"after", b""]
    assert await far.receive_some() == b""


@pytest.mark.parametrize("kind", ["left", "raised", "large", "reset", "unwilling to end"])
async def test_what_a_fed_sink_does_not_take_is_received(
    autojump_clock: MockClock, ends: Ends, kind: str
) -> None:
    near, far = ends
    told: list[int] = []

    def sink(data: Buffer) -> Buffer:
        if kind == "left":
            return data
        if kind == "raised" or not data:
            raise BrokenPipeError(errno.EPIPE, "gone")
        return b""

    far.feed(sink, lambda: told.append(1))
    if kind == "reset":
        await near.abort(Code.INTERNAL, "why")
    elif kind == "unwilling to end":
        await near.send_eof()
    else:
        await near.send_all(bytes(100_000 if kind == "large" else 10))
    await trio.sleep(0.1)
    assert told == [1]
    if kind == "reset":
        assert (await reset_reason(far.receive_some)).reason == "why"
    elif kind in {"raised", "unwilling to end"}:
        with pytest.raises(BrokenPipeError):
            await far.receive_some()
    else:
        assert await far.receive_some() != b""
    await trio.sleep(0.1)
    assert told == [1]


async def test_who_is_fed_no_more_is_called_no_more(autojump_clock: MockClock, ends: Ends) -> None:
    near, far = ends
    far.feed(lambda _: pytest.fail("called"), lambda: pytest.fail("called"))
    far.stop_feeding()
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"


async def test_an_accept_that_nobody_waits_for_goes_with_the_first_answer(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    await tunnel.stream_pair()  # a first one brings a PING, whose answer takes an ack with it
    async with tunnel.listen.listen(auto_accept=False) as listener:
        near = tunnel.dial.start_stream()
        await near.send_all(b"request")
        far = await listener.accept()
        assert await far.receive_some() == b"request"
        await wait_all_tasks_blocked()
        await far.accept("somewhere")
        for _ in range(5):  # the writer does not run: what it was not told of is still queued
            await trio.lowlevel.checkpoint()
        assert tunnel.listen.engine.wants_write(trio.current_time())
        await far.send_all(b"answer")
        assert not tunnel.listen.engine.wants_write(trio.current_time())
        assert await near.receive_some() == b"answer"
        assert await near.wait_accepted() == "somewhere"


async def test_data_that_is_there_goes_out_with_the_open(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    listener = tunnel.listen.listen(auto_accept=False)
    before = tunnel.dial.storage.operations.writes
    near = tunnel.dial.start_stream("x", "", b"first")
    far = await listener.accept()
    assert await far.receive_some() == b"first"
    assert tunnel.dial.storage.operations.writes - before == 1
    await far.accept()
    await near.wait_accepted()
    await near.send_all(b"second")
    assert await far.receive_some() == b"second"


async def test_an_accept_without_an_answer_goes_with_the_ack(
    autojump_clock: MockClock, tunnel: Tunnel
) -> None:
    async with tunnel.listen.listen(auto_accept=False) as listener:
        near = tunnel.dial.start_stream()
        await near.send_all(b"request")
        far = await listener.accept()
        await far.receive_some()
        await far.accept()
        with trio.fail_after(0.3):
            await near.wait_accepted()
        await trio.sleep(1)  # no ack is owed any more
        late = tunnel.dial.start_stream()
        await late.send_all(b"request")
        far = await listener.accept()
        await trio.sleep(1)
        await far.accept()
        with trio.fail_after(0.3):
            await late.wait_accepted()
