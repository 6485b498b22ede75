"""Sessions with a key: what they carry, what stands in the files, and who is let in."""

# ruff: noqa: PT012  (what is raised by leaving a block needs the block)

from __future__ import annotations

import itertools
from typing import Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

import muxfs
from muxfs import Code, Key, SessionError, SessionState, Stranger
from muxfs.core import wire
from muxfs.core.wire import PAGE, RING_OFFSET, ItemType
from muxfs.testing import MemoryFilesystem
from tests.session.tunnel import (
    BIRTH,
    CAPACITY,
    DIAL,
    HEARTBEAT,
    LISTEN,
    TIMEOUT,
    Tunnel,
    open_side,
    open_tunnel,
    read_all,
    start_life,
)

KEY = Key(b"k" * 32, name="job/0")
OTHER = Key(b"o" * 32, name="job/0")
NAMES: dict[str, Literal["listen", "dial"]] = {LISTEN: "listen", DIAL: "dial"}
WORDS = b"the very words that nobody else is to read"


def content(fs: MemoryFilesystem, name: str) -> bytes:
    return fs.files[name].read(0, RING_OFFSET + CAPACITY)


def put(fs: MemoryFilesystem, name: str, data: bytes, offset: int = 0) -> None:
    fs.files[name].write(offset, [data])
    fs.notify()


async def exchange(tunnel: Tunnel, sent: bytes = WORDS) -> None:
    near, far = await tunnel.stream_pair("secret-host:1")
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, sent)
        got = b""
        while len(got) < len(sent):
            got += await far.receive_some()
        assert got == sent


@attrs.define
class Told:
    """What a session tells of strangers."""

    session: muxfs.Session
    reasons: list[str] = attrs.field(factory=list)

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        changes = self.session.changes()
        task_status.started()
        async for change in changes:
            if isinstance(change, Stranger):
                self.reasons.append(change.reason)


async def listening_to(nursery: trio.Nursery, session: muxfs.Session) -> Told:
    told = Told(session)
    await nursery.start(told.follow)
    return told


# What works as ever


async def test_streams(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        data = bytes(range(256)) * 20_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, data)
            got = b""
            while len(got) < len(data):
                got += await far.receive_some()
        assert got == data
        await far.send_all(b"answer")
        await far.send_eof()
        await near.send_eof()
        assert await read_all(near) == b"answer"
        assert await read_all(far) == b""


async def test_the_peer_is_told_who_it_is(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY, label="job 7") as tunnel:
        peer = await tunnel.dial.wait_established()
        assert peer.label == "job 7"
        assert peer.host
        assert peer.software == f"muxfs {muxfs.__version__}"


async def test_nothing_of_it_stands_in_the_files(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY, label="label-of-mine") as tunnel:
        peer = await tunnel.dial.wait_established()
        await exchange(tunnel)
        await trio.sleep(3 * HEARTBEAT)
        files = [content(tunnel.fs, name) for name in (LISTEN, DIAL)]
    files += [content(tunnel.fs, name) for name in (LISTEN, DIAL)]
    said = (peer.host, peer.user, "label-of-mine", "muxfs 0", "secret-host")
    for data in files:
        # two letters stand in random bytes by chance
        for words in (words for words in said if len(words) >= 4):
            assert words.encode() not in data
        assert WORDS not in data
        assert b"in_flight" not in data
        assert KEY.secret not in data


async def test_restarts(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with trio.open_nursery() as nursery:
        listen = await start_life(nursery, fs, "listen", key=KEY)
        for _ in range(3):
            dial = await start_life(nursery, fs, "dial", key=KEY)
            await dial.session.wait_established()
            await exchange(Tunnel(fs, listen.session, dial.session))
            dial.kill()
            await trio.sleep(1)
        dial = await start_life(nursery, fs, "dial", key=KEY)
        await exchange(Tunnel(fs, listen.session, dial.session))
        await dial.leave()
        await listen.leave()
        nursery.cancel_scope.cancel()


async def test_takeover(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with open_side(fs, "listen", key=KEY) as listen, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def first(*, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(SessionError) as caught:
                async with open_side(fs, "dial", key=KEY) as dial:
                    await dial.wait_established()
                    task_status.started()
                    await trio.sleep_forever()
            assert caught.value.code is Code.SUPERSEDED
            ended.set()

        await nursery.start(first)
        async with open_side(fs, "dial", key=KEY, takeover=True) as second:
            await second.wait_established()
            with trio.fail_after(4 * HEARTBEAT):
                await ended.wait()
            await exchange(Tunnel(fs, listen, second))
            assert listen.state is SessionState.ESTABLISHED


async def test_a_second_process_of_the_role_is_refused(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        for key in (KEY, OTHER, None):
            with pytest.raises(muxfs.AlreadyRunning):
                async with open_side(tunnel.fs, "dial", key=key):
                    raise AssertionError("it was let in")
        await exchange(tunnel)


async def test_a_damaged_file_is_mended(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        await near.send_all(b"before")
        put(tunnel.fs, DIAL, bytes(RING_OFFSET + CAPACITY))
        await near.send_all(b"after")
        got = b""
        with trio.fail_after(TIMEOUT):
            while len(got) < 11:
                got += await far.receive_some()
        assert got == b"beforeafter"


# Who lacks the key


@pytest.mark.parametrize("first", ["listen", "dial"])
async def test_another_key_is_told_on_both_sides(
    autojump_clock: MockClock, first: Literal["listen", "dial"]
) -> None:
    fs = MemoryFilesystem()
    second: Literal["listen", "dial"] = "dial" if first == "listen" else "listen"
    async with open_side(fs, first, key=KEY) as one, trio.open_nursery() as nursery:
        told_one = await listening_to(nursery, one)
        await trio.sleep(3)
        async with open_side(fs, second, key=OTHER) as other:
            told_other = await listening_to(nursery, other)
            await trio.sleep(2 * HEARTBEAT)
            ids = KEY.key_id, OTHER.key_id
            for told, mine, its in ((told_one, *ids), (told_other, *reversed(ids))):
                (reason,) = told.reasons
                assert f"another key ({its}, this side has {mine})" in reason
            await trio.sleep(10 * HEARTBEAT)
            assert len(told_one.reasons) == len(told_other.reasons) == 1
            assert one.state is other.state is SessionState.WAITING
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("keyed", ["listen", "dial"])
@pytest.mark.parametrize("keyed_first", [True, False])
async def test_a_missing_key_is_told_on_both_sides(
    autojump_clock: MockClock, keyed: Literal["listen", "dial"], keyed_first: bool
) -> None:
    fs = MemoryFilesystem()
    plain: Literal["listen", "dial"] = "dial" if keyed == "listen" else "listen"
    told: Told | None = None

    async def with_key(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal told
        async with open_side(fs, keyed, key=KEY) as session, trio.open_nursery() as nursery:
            told = await listening_to(nursery, session)
            task_status.started()
            await trio.sleep_forever()

    async def without(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.fail_after(3 * HEARTBEAT), pytest.raises(SessionError) as caught:
            async with open_side(fs, plain):
                task_status.started()
                await trio.sleep_forever()
        assert caught.value.code is Code.VERSION
        assert "requires a key" in str(caught.value)

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            for starting in (with_key, without) if keyed_first else (without, with_key):
                await (outer if starting is with_key else nursery).start(starting)
                await trio.sleep(3)
        await trio.sleep(HEARTBEAT)
        assert told is not None
        assert ["has no key" in reason for reason in told.reasons] == [True]
        assert told.session.state is SessionState.WAITING
        outer.cancel_scope.cancel()


async def test_another_tunnel_with_the_same_key_is_told(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    async with (
        open_side(fs, "listen", key=KEY) as one,
        open_side(fs, "dial", key=KEY.named("other/0")) as other,
        trio.open_nursery() as nursery,
    ):
        tellers = [await listening_to(nursery, session) for session in (one, other)]
        await trio.sleep(2 * HEARTBEAT)
        for told, name in zip(tellers, ("job/0", "other/0"), strict=True):
            (reason,) = told.reasons
            assert f"not sealed for {name}" in reason
        assert one.state is other.state is SessionState.WAITING
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("left", "now"), [(KEY, None), (None, KEY), (OTHER, KEY)])
async def test_files_that_others_left_behind_are_no_matter(
    autojump_clock: MockClock, left: Key | None, now: Key | None
) -> None:
    fs = MemoryFilesystem()
    async with trio.open_nursery() as nursery:
        lives = [await start_life(nursery, fs, role, key=left) for role in ("listen", "dial")]
        await lives[0].session.wait_established()
        for life in lives:
            life.kill()
        await trio.sleep(2 * TIMEOUT)
        async with open_side(fs, "listen", key=now) as listen:
            told = await listening_to(nursery, listen)
            await trio.sleep(2 * TIMEOUT)
            assert not told.reasons
            async with open_side(fs, "dial", key=now) as dial:
                await listen.wait_established()
                await exchange(Tunnel(fs, listen, dial))
        nursery.cancel_scope.cancel()


# Who can write to the directory, but has not the key


def planted_births() -> dict[str, bytes]:
    def birth(role: wire.Role, generation: int, **given: object) -> bytes:
        incarnation = wire.Incarnation(generation, b"n" * 16)
        return wire.encode_birth(wire.Birth(role, incarnation, CAPACITY, **given))  # type: ignore[arg-type]

    next_version = bytearray(birth(wire.Role.DIAL, 99))
    next_version[8] = 2
    impossible = bytearray(birth(wire.Role.DIAL, 99))
    impossible[11] = 9
    forged = ((ItemType.KEY, bytes.fromhex(KEY.key_id) + bytes(32)), (ItemType.SEALED, bytes(99)))
    sealed = {"features_offered": 1, "features_required": 1, "items": forged}
    return {
        "plain": birth(wire.Role.DIAL, 99),
        "last generation": birth(wire.Role.DIAL, wire.MAX_SEQUENCE),
        "wrong role": birth(wire.Role.LISTEN, 99),
        "next version": wire.with_checksum(bytes(next_version[:-8])),
        "impossible": wire.with_checksum(bytes(impossible[:-8])),
        "unknown features": birth(wire.Role.DIAL, 99, features_required=1 << 60),
        "forged": birth(wire.Role.DIAL, 99, **sealed),
        "garbage": b"\xff" * PAGE,
    }


def planted_statuses(dial: wire.Incarnation, listen: wire.Incarnation) -> list[bytes]:
    higher = wire.Incarnation(listen.generation + 5, b"x" * 16)
    plain = [
        wire.Status(dial, listen, 10**6, closed=True, code=Code.SHUTDOWN),
        wire.Status(dial, higher, 10**6),
        wire.Status(dial, listen, 10**6, read_position=1 << 40),
    ]
    sealed = [
        wire.with_checksum(
            wire.encode_status_fields(status, 16, flags=wire.STATUS_SEALED) + bytes(16)
        )
        for status in plain
    ]
    return [wire.encode_status(status) for status in plain] + sealed


@pytest.mark.parametrize("place", [DIAL, LISTEN])
@pytest.mark.parametrize("what", planted_births())
async def test_a_planted_birth_block_ends_nothing(
    autojump_clock: MockClock, what: str, place: str
) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        put(tunnel.fs, place, planted_births()[what])
        await trio.sleep(10 * HEARTBEAT)
        await near.send_all(WORDS)
        assert await far.receive_some() == WORDS
        assert tunnel.dial.state is tunnel.listen.state is SessionState.ESTABLISHED


async def test_planted_statuses_end_nothing(autojump_clock: MockClock) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        dial = tunnel.dial.engine.link.own.incarnation
        listen = tunnel.listen.engine.link.own.incarnation
        for block in planted_statuses(dial, listen):
            for slot in (1, 2):
                put(tunnel.fs, DIAL, block, slot * PAGE)
                await trio.sleep(HEARTBEAT)
        await near.send_all(WORDS)
        assert await far.receive_some() == WORDS
        assert tunnel.dial.state is tunnel.listen.state is SessionState.ESTABLISHED


@pytest.mark.parametrize("swap", ["own into the other", "exchange"])
async def test_swapped_files(autojump_clock: MockClock, swap: str) -> None:
    async with open_tunnel(key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        await near.send_all(b"one")
        assert await far.receive_some() == b"one"
        fs = tunnel.fs
        dial, listen = content(fs, DIAL), content(fs, LISTEN)
        put(fs, DIAL, listen)
        if swap == "exchange":
            put(fs, LISTEN, dial)
        await near.send_all(b"two")
        with trio.fail_after(TIMEOUT):
            assert await far.receive_some() == b"two"
        assert tunnel.dial.state is tunnel.listen.state is SessionState.ESTABLISHED


@pytest.mark.parametrize("name", [LISTEN, DIAL])
async def test_an_old_file_as_a_whole(autojump_clock: MockClock, name: str) -> None:
    """A genuine file of an earlier session, put back while the next one runs."""
    fs = MemoryFilesystem()
    async with open_tunnel(fs, key=KEY) as tunnel:
        await exchange(tunnel)
        old = content(fs, name)
    for offset in (RING_OFFSET, 0):
        async with open_tunnel(fs, key=KEY) as tunnel:
            near, far = await tunnel.stream_pair()
            put(fs, name, old[offset:], offset)
            await near.send_all(b"new")
            with trio.fail_after(TIMEOUT):
                assert await far.receive_some() == b"new"
            await trio.sleep(10 * HEARTBEAT)
            assert tunnel.dial.state is tunnel.listen.state is SessionState.ESTABLISHED


@pytest.mark.parametrize("name", [LISTEN, DIAL])
async def test_old_blocks_after_the_files_were_deleted(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The files do not tell the next life its generation: the clock does."""
    clock = itertools.count(1_800_000_000, 60)
    monkeypatch.setattr("muxfs.session.least_generation", lambda: next(clock))
    fs = MemoryFilesystem()
    for _ in range(4):
        async with open_tunnel(fs, key=KEY):
            pass
    async with open_tunnel(fs, key=KEY):
        old = content(fs, name)[: wire.HEAD_LENGTH]
    fs.files.clear()
    async with open_tunnel(fs, key=KEY) as tunnel:
        near, far = await tunnel.stream_pair()
        put(fs, name, old[BIRTH])
        await trio.sleep(10 * HEARTBEAT)
        put(fs, name, old)
        await near.send_all(WORDS)
        with trio.fail_after(TIMEOUT):
            assert await far.receive_some() == WORDS
        await trio.sleep(10 * HEARTBEAT)
        assert tunnel.dial.state is tunnel.listen.state is SessionState.ESTABLISHED


async def test_files_of_another_tunnel_with_the_same_key(autojump_clock: MockClock) -> None:
    others = MemoryFilesystem()
    async with open_tunnel(key=KEY) as tunnel, open_tunnel(others, key=KEY.named("b/0")) as other:
        near, far = await tunnel.stream_pair()
        for name in (DIAL, LISTEN):
            mine, its = content(tunnel.fs, name), content(others, name)
            put(tunnel.fs, name, its)
            put(others, name, mine)
        await near.send_all(WORDS)
        with trio.fail_after(TIMEOUT):
            assert await far.receive_some() == WORDS
        await trio.sleep(5 * HEARTBEAT)
        sessions = (tunnel.dial, tunnel.listen, other.dial, other.listen)
        assert {session.state for session in sessions} == {SessionState.ESTABLISHED}


async def test_a_side_with_a_key_never_goes_on_without(autojump_clock: MockClock) -> None:
    """The other side is replaced by one without a key, which then has the directory alone."""
    fs = MemoryFilesystem()
    async with open_side(fs, "listen", key=KEY) as listen, trio.open_nursery() as nursery:
        told = await listening_to(nursery, listen)
        async with open_side(fs, "dial", key=KEY):
            await listen.wait_established()
        with pytest.raises(SessionError, match="requires a key"):
            async with open_side(fs, "dial"):
                await trio.sleep(10 * TIMEOUT)
        assert listen.state is SessionState.WAITING
        assert "no key" in told.reasons[0]
        nursery.cancel_scope.cancel()
