"""Sessions that form, fall silent, die and form again, without either user's doing."""

# ruff: noqa: PT012  (what is raised by leaving a block needs the block)

from __future__ import annotations

from typing import Literal

import pytest
import trio
from trio.testing import MockClock
from xxhash import xxh3_64_digest

import muxfs
from muxfs import (
    AlreadyRunning,
    Code,
    MuxStream,
    SessionError,
    SessionState,
    StreamReset,
    process,
)
from muxfs.core import wire
from muxfs.core.wire import Frame, FrameType, ItemType
from muxfs.storage.base import Progress
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import (
    DIAL,
    HEARTBEAT,
    LISTEN,
    TIMEOUT,
    Tunnel,
    open_side,
    open_tunnel,
    start_life,
    storage,
)

Role = Literal["listen", "dial"]


async def pair_of(near: muxfs.Session, far: muxfs.Session) -> tuple[MuxStream, MuxStream]:
    await near.wait_established()
    await far.wait_established()
    return await Tunnel(MemoryFilesystem(), far, near).stream_pair()


async def exchange(near: muxfs.Session, far: muxfs.Session, data: bytes = b"hello") -> None:
    """See that the session between the two works."""
    one, other = await pair_of(near, far)
    for here, there in ((one, other), (other, one)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send_all, data)
            received = bytearray()
            while len(received) < len(data):
                received += await there.receive_some()
            assert received == data
    await one.aclose()
    await other.aclose()


async def expect_reset(stream: MuxStream, code: Code) -> None:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.receive_some()
    assert isinstance(caught.value.__cause__, StreamReset)
    assert caught.value.__cause__.code is code
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


# Meeting


@pytest.mark.parametrize("first", ["listen", "dial"])
@pytest.mark.parametrize("later", [0.0, 0.3, 100.0, 10_000.0])
async def test_either_side_starts_first(
    autojump_clock: MockClock, first: Role, later: float
) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, first) as early:
        assert early.state is SessionState.WAITING
        await trio.sleep(later)
        start = trio.current_time()
        async with open_side(fs, "dial" if first == "listen" else "listen") as late:
            early_peer = await early.wait_established()
            late_peer = await late.wait_established()
            assert trio.current_time() - start <= 2.5  # two polls of an idle side, and a reserve
            assert early_peer.generation == late_peer.generation == 1
            assert early_peer.pid == late_peer.pid
            assert early_peer.software.startswith("muxfs ")
            assert early.state is late.state is SessionState.ESTABLISHED
            await exchange(early, late)


async def test_an_opener_waits_for_the_other_side(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "dial") as dial, trio.open_nursery() as nursery:
        streams: list[MuxStream] = []

        async def open_one() -> None:
            streams.append(await dial.open_stream("early"))

        nursery.start_soon(open_one)
        await trio.sleep(50)
        async with open_side(fs, "listen") as listen:
            far = await listen.listen().accept()
            await streams_in(streams, 1)
            await streams[0].send_all(b"at last")
            assert await far.receive_some() == b"at last"


async def streams_in(streams: list[MuxStream], count: int) -> None:
    await trio.sleep(3)
    assert len(streams) == count


async def test_labels_are_told(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    label = "job 4711\x1b[2J"
    async with open_side(fs, "dial", label=label), open_side(fs, "listen") as listen:
        assert (await listen.wait_established()).label == "job 4711\\x1b[2J"


# Leaving and dying


@pytest.mark.parametrize("role", ["listen", "dial"])
@pytest.mark.parametrize("killed", [True, False])
async def test_the_next_session_forms_by_itself(
    autojump_clock: MockClock, role: Role, killed: bool
) -> None:
    fs = MemoryFilesystem()
    other: Role = "dial" if role == "listen" else "listen"
    async with open_side(fs, other) as stays, trio.open_nursery() as nursery:
        life = await start_life(nursery, fs, role)
        for generation in range(1, 5):
            assert (await stays.wait_established()).generation == generation
            await exchange(stays, life.session)
            near, _ = await pair_of(stays, life.session)
            start = trio.current_time()
            if killed:
                life.kill()
                life = await start_life(nursery, fs, role)
                await expect_reset(near, Code.PEER_RESTARTED)
                # the new one watched the file for longer than a heartbeat: is it in use?
                assert trio.current_time() - start < 12
            else:
                await life.leave()
                await expect_reset(near, Code.SHUTDOWN)
                assert trio.current_time() - start < 3
                life = await start_life(nursery, fs, role)
        nursery.cancel_scope.cancel()


async def test_a_killed_peer_is_given_up_after_the_peer_timeout(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        changes = listen.changes()
        life = await start_life(nursery, fs, "dial")
        _, far = await pair_of(life.session, listen)
        assert isinstance(await changes.receive(), muxfs.Established)
        life.kill()
        start = trio.current_time()
        silent = await changes.receive()
        assert isinstance(silent, muxfs.Silent)
        assert trio.current_time() - start == pytest.approx(3 * HEARTBEAT, abs=HEARTBEAT)
        assert listen.state is SessionState.SILENT
        await expect_reset(far, Code.PEER_DEAD)
        assert trio.current_time() - start == pytest.approx(TIMEOUT, abs=HEARTBEAT)
        lost = await changes.receive()
        assert isinstance(lost, muxfs.Lost)
        assert lost.code is Code.PEER_DEAD
        await trio.sleep(1000)
        assert listen.state is SessionState.WAITING
        life = await start_life(nursery, fs, "dial")
        await exchange(listen, life.session)
        nursery.cancel_scope.cancel()


async def test_files_of_two_killed_sides_never_look_alive(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with trio.open_nursery() as nursery:
        lives = [await start_life(nursery, fs, role) for role in ("listen", "dial")]
        await exchange(lives[0].session, lives[1].session)
        for life in lives:
            life.kill()
        await trio.sleep(20)
        async with open_side(fs, "listen") as listen:
            await trio.sleep(100)
            assert listen.state is SessionState.WAITING
        nursery.cancel_scope.cancel()


async def test_both_sides_restart_at_once(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    for _ in range(5):
        async with open_tunnel(fs) as tunnel:
            await exchange(tunnel.dial, tunnel.listen)


async def test_a_peer_that_stops_and_goes_on(autojump_clock: MockClock) -> None:
    """A suspended process: its streams wait, and go on."""
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        changes = listen.changes()
        life = await start_life(nursery, fs, "dial")
        near, far = await pair_of(life.session, listen)
        await changes.receive()
        life.cut()
        await trio.sleep(TIMEOUT / 2)
        assert listen.state is SessionState.SILENT
        assert isinstance(await changes.receive(), muxfs.Silent)
        await far.send_all(b"into the silence")
        life.mend()
        assert await near.receive_some() == b"into the silence"
        await near.send_all(b"back again")
        assert await far.receive_some() == b"back again"
        assert isinstance(await changes.receive(), muxfs.Resumed)
        assert listen.state is SessionState.ESTABLISHED
        nursery.cancel_scope.cancel()


async def test_a_peer_that_comes_back_after_it_was_given_up(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        life = await start_life(nursery, fs, "dial")
        near, far = await pair_of(life.session, listen)
        life.cut()
        await trio.sleep(3 * TIMEOUT)
        await expect_reset(far, Code.PEER_DEAD)
        life.mend()
        await trio.sleep(3)
        await expect_reset(near, Code.PEER_RESTARTED)
        await exchange(listen, life.session)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [20, 300])
async def test_a_server_that_stops_loses_nothing(autojump_clock: MockClock, seconds: int) -> None:
    fs = MemoryFilesystem(latency=0.01)
    async with open_tunnel(fs) as tunnel, trio.open_nursery() as nursery:
        near, far = await tunnel.stream_pair()
        data = bytes(range(251)) * 40_000

        async def send() -> None:
            await near.send_all(data)
            await near.aclose()

        async def stop() -> None:
            await trio.sleep(0.2)
            fs.stop()
            await trio.sleep(seconds)
            fs.resume()

        nursery.start_soon(send)
        nursery.start_soon(stop)
        received = bytearray()
        async for part in far:
            received += part
        assert received == data
        assert trio.current_time() > seconds


# Two of the same role


async def test_a_second_process_of_the_same_role_is_refused(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "dial") as first, open_side(fs, "listen") as listen:
        await exchange(first, listen)
        with pytest.raises(AlreadyRunning) as caught:
            async with open_side(fs, "dial"):
                pass
        peer = await listen.wait_established()
        assert f"host {peer.host}, pid {peer.pid}" in str(caught.value)
        assert "--takeover" in str(caught.value)
        await exchange(first, listen)


async def test_one_of_the_same_role_that_waits_for_its_peer_is_noticed(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "dial"):
        await trio.sleep(100)
        with pytest.raises(AlreadyRunning):
            async with open_side(fs, "dial"):
                pass


async def test_a_takeover_ends_the_first(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def first() -> None:
            with pytest.raises(SessionError) as caught:
                async with open_side(fs, "dial") as dial:
                    await exchange(dial, listen)
                    met.set()
                    await trio.sleep_forever()
            assert caught.value.code is Code.SUPERSEDED
            ended.set()

        met = trio.Event()
        nursery.start_soon(first)
        await met.wait()
        async with open_side(fs, "dial", takeover=True) as second:
            assert second.engine.own.text(ItemType.REPLACES) == process.identity()
            with trio.fail_after(30):
                await ended.wait()
                await exchange(second, listen)
            await trio.sleep(100)
            await exchange(second, listen)


async def test_a_takeover_of_one_that_waits_for_its_peer(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    with trio.fail_after(60), pytest.raises(SessionError) as caught:
        async with open_side(fs, "dial"), trio.open_nursery() as nursery:
            await trio.sleep(1)
            await start_life(nursery, fs, "dial", takeover=True)
            await trio.sleep_forever()
    assert caught.value.code is Code.SUPERSEDED


@pytest.mark.parametrize("latency", [0.0, 0.002, 0.2])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("met", [False, True])
async def test_of_two_that_start_at_the_same_instant_one_stays(
    autojump_clock: MockClock, latency: float, used: bool, met: bool
) -> None:
    """Both find the file as free; which one stays is clear within seconds."""
    fs = MemoryFilesystem(latency=latency)
    if used:
        async with open_side(fs, "dial"):
            pass
    ended: list[Code] = []
    stayed: list[muxfs.Session] = []

    async def one() -> None:
        try:
            async with open_side(fs, "dial") as dial:
                stayed.append(dial)
                await trio.sleep_forever()
        except SessionError as error:
            ended.append(error.code)
            stayed.remove(dial)

    async with trio.open_nursery() as nursery:
        if met:
            far = await start_life(nursery, fs, "listen")
        for _ in range(2):
            nursery.start_soon(one)
        await trio.sleep(3 + 20 * latency)
        assert ended == [Code.SUPERSEDED]
        if not met:
            far = await start_life(nursery, fs, "listen")
        (dial,) = stayed
        await exchange(dial, far.session)
        await trio.sleep(100)
        await exchange(dial, far.session)
        nursery.cancel_scope.cancel()


async def test_one_that_was_born_while_the_file_was_filled(autojump_clock: MockClock) -> None:
    """Filling a file may take long: what it held before says nothing any more."""
    fs = MemoryFilesystem()
    slow = storage(fs, "dial")
    prepare = slow.writer.prepare

    async def fill(size: int, progress: Progress | None = None) -> bytes:
        head = await prepare(size, progress)
        await trio.sleep(10)
        return head

    slow.writer.prepare = fill  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:

        async def late() -> None:
            with pytest.raises(AlreadyRunning):
                async with open_side(fs, "dial", slow):
                    pass

        nursery.start_soon(late)
        await trio.sleep(1)
        async with open_side(fs, "dial") as dial, open_side(fs, "listen") as listen:
            await exchange(dial, listen)
            await trio.sleep(100)
            await exchange(dial, listen)


# What the other side may not be


async def test_another_version(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen"):
        pass
    head = bytearray(fs.files[LISTEN].read(0, 4096))
    length = int.from_bytes(head[12:16], "big")
    head[8] = 2
    head[length - 8 : length] = xxh3_64_digest(bytes(head[: length - 8]))
    fs.files[LISTEN].write(0, [head])
    with trio.fail_after(10), pytest.raises(SessionError, match="speaks") as caught:
        async with open_side(fs, "dial"):
            await trio.sleep_forever()
    assert caught.value.code is Code.VERSION


async def test_two_of_one_role_that_read_each_other(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    with trio.fail_after(10), pytest.raises(SessionError, match="role") as caught:
        async with (
            open_side(fs, "dial"),
            muxfs.open_session("", role="dial", storage=fs.storage(LISTEN, DIAL)),
        ):
            await trio.sleep_forever()
    assert caught.value.code is Code.PROTOCOL


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Frame(FrameType.DATA, 2, payload=b"x"), "nobody opened"),
        (Frame(FrameType.OPEN, 1, payload=wire.encode_open("x", "")), "OPEN"),
        (Frame(0, 1), "unknown type"),
    ],
)
async def test_hostile_frames(autojump_clock: MockClock, frame: Frame, reason: str) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen") as listen, trio.open_nursery() as nursery:
        changes = listen.changes()
        with trio.fail_after(20), pytest.raises(SessionError, match=reason) as caught:
            async with open_side(fs, "dial") as dial:
                await dial.wait_established()
                await listen.wait_established()
                await trio.sleep(10)  # nothing of the listen side's own is under way any more
                assert dial.engine._conversation is not None
                ring = dial.engine._conversation.inbound
                body = [wire.encode_frame(frame)]
                batch = wire.encode_batch(ring.epoch, ring.position, 0, body, 1)
                fs.files[LISTEN].write(ring.file_offset(ring.position), batch)
                await trio.sleep_forever()
        assert caught.value.code is Code.PROTOCOL
        nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            assert isinstance(await changes.receive(), muxfs.Established)
            lost = await changes.receive()
            assert isinstance(lost, muxfs.Lost)
            assert lost.code is Code.PROTOCOL


async def test_changes_end_with_the_session_and_forget_what_nobody_takes(
    autojump_clock: MockClock,
) -> None:
    async with open_tunnel() as tunnel:
        changes = tunnel.dial.changes()
        forgotten = tunnel.dial.changes()
        forgotten.close()
        for _ in range(1000):
            tunnel.dial._publish(muxfs.Resumed())
    assert len([change async for change in changes]) == 256
