"""Readers that are shown old bytes, and writers that nobody sees: they change their ways."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import muxfs
from muxfs.core import wire
from muxfs.core.doubt import MOST_PAUSE
from muxfs.core.engine import Engine, EngineConfig
from muxfs.core.wire import HEAD_LENGTH, Birth, Incarnation, Role, Status
from muxfs.escalation import Escalation
from muxfs.storage import filesystem
from muxfs.storage.access import HeldRead
from muxfs.storage.choices import Choice, Source
from muxfs.storage.memory_file import MemoryFile
from muxfs.testing import FrozenView, MemoryFilesystem
from tests.session.tunnel import DIAL, HEARTBEAT, LISTEN, Tunnel, open_side, read_all

READS = ("held", "dontneed", "direct")
WRITES = ("plain", "dsync", "close")


@asynccontextmanager
async def open_tunnel(
    fs: MemoryFilesystem,
    reads: Sequence[str] = READS,
    writes: Sequence[str] = ("dsync",),
    **settings: Any,
) -> AsyncIterator[Tunnel]:
    """A tunnel whose dialling side has these strategies."""
    mailboxes = fs.storage(DIAL, LISTEN, reads, writes)
    async with (
        open_side(fs, "listen", **settings) as listen,
        open_side(fs, "dial", mailboxes, **settings) as dial,
    ):
        yield Tunnel(fs, listen, dial)


async def echo(tunnel: Tunnel, message: bytes) -> None:
    near, far = await tunnel.stream_pair()
    await far.send_all(message)
    await far.send_eof()
    assert await read_all(near) == message
    await near.aclose()
    await far.aclose()


def changes_told(changes: trio.MemoryReceiveChannel[muxfs.Change]) -> list[muxfs.AccessChanged]:
    found = []
    try:
        while True:
            found.append(changes.receive_nowait())
    except trio.WouldBlock:
        return [change for change in found if isinstance(change, muxfs.AccessChanged)]


async def test_a_stale_reader_heals_in_the_middle_of_a_session(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs) as tunnel:
        await tunnel.dial.wait_established()
        changes = tunnel.dial.changes()
        await echo(tunnel, b"before")
        fs.views["held"] = FrozenView()
        with trio.fail_after(4 * HEARTBEAT):
            await echo(tunnel, b"after")

        told = changes_told(changes)
        assert [(one.before, one.after) for one in told] == [("held+dsync", "dontneed+dsync")]
        stats = tunnel.dial.stats()
        assert (stats.access, stats.escalations) == ("dontneed+dsync", 1)
        assert tunnel.listen.stats().escalations == 0


async def test_a_reader_that_never_saw_the_other_side_meets_it(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001, views={"held": FrozenView(), "dontneed": FrozenView()})
    fs.create(LISTEN, 20 << 20)
    fs.views["held"](fs.files[LISTEN], 0, 1)
    fs.views["dontneed"](fs.files[LISTEN], 0, 1)
    async with open_tunnel(fs) as tunnel:
        with trio.fail_after(2 * HEARTBEAT + 2):
            await tunnel.dial.wait_established()
        assert tunnel.dial.stats().access == "direct+dsync"
        await echo(tunnel, b"hello")


async def test_a_batch_that_the_peer_says_it_wrote_is_missed_for_moments_only(
    autojump_clock: MockClock,
) -> None:
    """The head is seen, and the ring is not."""
    frozen = FrozenView()

    def ring_only(file: MemoryFile, offset: int, length: int) -> bytes:
        stale = offset >= HEAD_LENGTH
        return frozen(file, offset, length) if stale else file.read(offset, length)

    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs, heartbeat=1.0) as tunnel:
        await tunnel.dial.wait_established()
        await echo(tunnel, b"before")
        fs.views["held"] = ring_only
        with trio.fail_after(3):
            await echo(tunnel, b"after")
        assert tunnel.dial.stats().access == "dontneed+dsync"
        assert tunnel.dial.stats().stale > 0


async def test_one_after_another_where_the_next_is_stale_too(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs) as tunnel:
        await tunnel.dial.wait_established()
        for number, name in enumerate(READS[:2], start=1):
            fs.views[name] = FrozenView()
            await echo(tunnel, name.encode())
            assert tunnel.dial.stats().escalations == number
        assert tunnel.dial.stats().access == "direct+dsync"


async def test_a_view_that_the_second_opinion_mends_is_found_out_as_well(
    autojump_clock: MockClock,
) -> None:
    """DONTNEED drops pages for all readers: then the first way shows what is new, each time."""
    frozen = FrozenView()

    def mending(file: MemoryFile, offset: int, length: int) -> bytes:
        frozen.forget()
        return file.read(offset, length)

    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs) as tunnel:
        await tunnel.dial.wait_established()
        fs.views.update(held=frozen, dontneed=mending)
        for _ in range(4):
            with trio.fail_after(8 * HEARTBEAT):
                await echo(tunnel, b"x" * 100)
        assert tunnel.dial.stats().access == "dontneed+dsync"


async def test_a_silent_peer_is_no_reason(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs, peer_timeout=0, heartbeat=1.0) as tunnel:
        await tunnel.dial.wait_established()
        tunnel.listen.pump.stop()  # as if it hung
        await trio.sleep(600)
        before = tunnel.dial.storage.operations.total
        await trio.sleep(600)
        doubts = 600 / MOST_PAUSE
        spent = (tunnel.dial.storage.operations.total - before) / 600

        assert tunnel.dial.stats().escalations == 0
        assert tunnel.dial.stats().access == "held+dsync"
        assert doubts * 3 * (1 + 2) / 600 < 0.2  # operations a second that doubting costs
        assert spent < 5


async def test_a_file_that_the_dead_left_behind_is_no_reason(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_side(fs, "listen"):
        pass
    async with open_side(fs, "dial", fs.storage(DIAL, LISTEN, READS, WRITES)) as dial:
        await trio.sleep(3600)
        before = dial.storage.operations.total
        await trio.sleep(3600)
        assert (dial.storage.operations.total - before) / 3600 < 2.5
        assert dial.stats().escalations == 0


async def test_where_nobody_is_there_is_nothing_to_ask(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    mailboxes = fs.storage(DIAL, LISTEN, READS, WRITES)
    asked: list[str] = []
    mailboxes.reader.read_by = note(asked)  # type: ignore[method-assign]
    async with open_side(fs, "dial", mailboxes):
        await trio.sleep(3600)
    assert set(asked) == {"dontneed"}  # one is enough to see that nobody is there
    assert len(asked) <= 10 + 3600 / MOST_PAUSE


async def test_a_file_that_seems_empty_for_ever(autojump_clock: MockClock) -> None:
    """Its size is what the client believes: it was opened when nothing was in it yet."""
    fs = MemoryFilesystem(latency=0.001, views={"held": lambda *_: b""})
    async with open_tunnel(fs) as tunnel:
        with trio.fail_after(2 * HEARTBEAT + 2):
            await tunnel.dial.wait_established()


def note(asked: list[str]) -> Callable[..., Any]:
    async def read_by(strategy: str, extents: Sequence[tuple[int, int]]) -> list[bytes]:
        asked.append(strategy)
        await trio.lowlevel.checkpoint()
        return [b"" for _ in extents]

    return read_by


@pytest.mark.parametrize("reads", [("held",), READS])
async def test_writes_that_nobody_sees_are_made_surer(
    autojump_clock: MockClock, reads: Sequence[str]
) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs, reads, WRITES) as tunnel:
        await tunnel.dial.wait_established()
        changes = tunnel.dial.changes()
        fs.unseen = {"plain"}
        with trio.fail_after(60):
            near, far = await tunnel.stream_pair()
            await near.send_all(b"seen")
            await near.send_eof()
            assert await read_all(far) == b"seen"

        (told,) = changes_told(changes)
        assert (told.before, told.after) == ("held+plain", "held+dsync")
        assert tunnel.dial.stats().escalations == 1


async def test_a_writer_that_was_never_seen_is_met(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001, unseen={"plain", "dsync"})
    async with open_tunnel(fs, READS, WRITES) as tunnel:
        with trio.fail_after(60):
            await tunnel.dial.wait_established()
        await echo(tunnel, b"hello")
        assert tunnel.dial.stats().access == "held+close"


async def test_a_peer_that_does_not_answer_is_no_reason_to_write_surer(
    autojump_clock: MockClock,
) -> None:
    """Its beats stand still with its acks: it is the peer that hangs."""
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs, READS, WRITES, peer_timeout=0) as tunnel:
        await tunnel.dial.wait_established()
        near, _far = await tunnel.stream_pair()
        tunnel.listen.pump.stop()
        await near.send_all(b"unheard")
        await trio.sleep(600)
        assert tunnel.dial.stats().escalations == 0


async def test_strategies_that_fail_are_passed_over(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    mailboxes = fs.storage(DIAL, LISTEN, READS, ("dsync",))

    def refuse(file: MemoryFile, offset: int, length: int) -> bytes:
        raise OSError(5, "no")

    async with open_side(fs, "listen") as listen, open_side(fs, "dial", mailboxes) as dial:
        await dial.wait_established()
        fs.views.update(held=FrozenView(), dontneed=refuse)
        await echo(Tunnel(fs, listen, dial), b"hello")
        assert dial.stats().access == "direct+dsync"


async def test_a_way_that_cannot_be_changed_to_is_tried_ever_more_seldom(
    autojump_clock: MockClock,
) -> None:
    fs = MemoryFilesystem(latency=0.001)
    mailboxes = fs.storage(DIAL, LISTEN, READS, WRITES)
    tried: list[str] = []
    mailboxes.reader.adopt = refuse_all(tried)  # type: ignore[method-assign]
    mailboxes.writer.adopt = refuse_all(tried)  # type: ignore[method-assign]
    async with (
        open_side(fs, "listen", peer_timeout=0),
        open_side(fs, "dial", mailboxes, peer_timeout=0) as dial,
    ):
        await dial.wait_established()
        fs.views["held"] = FrozenView()
        await trio.sleep(3600)
        assert set(tried) == {"dontneed"}
        assert len(tried) <= 10 + 3600 / MOST_PAUSE
        fs.views.clear()
        fs.unseen = {"plain"}
        dial.start_stream()
        await trio.sleep(60)
        assert tried[-1] == "dsync"
        assert dial.stats().escalations == 0
        assert dial.stats().access == "held+plain"


def refuse_all(tried: list[str]) -> Callable[[str], Any]:
    async def adopt(strategy: str) -> None:
        tried.append(strategy)
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "Input/output error")

    return adopt


async def test_a_long_transfer_under_a_stale_view(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001)
    async with open_tunnel(fs, capacity=1 << 18) as tunnel:
        await tunnel.dial.wait_established()
        near, far = await tunnel.stream_pair()
        data = bytes(range(256)) * 16384

        async def send() -> None:
            await far.send_all(data)
            await far.send_eof()

        async def spoil() -> None:
            await trio.sleep(0.05)
            fs.views["held"] = FrozenView()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(spoil)
            assert await read_all(near) == data
        assert tunnel.dial.stats().escalations == 1


async def test_news_that_came_that_very_moment_prove_nothing_but_twice_in_a_row(
    autojump_clock: MockClock,
) -> None:
    incarnation = Incarnation(1, b"n" * 16)
    beat = 1

    def head(_file: MemoryFile, offset: int, length: int) -> bytes:
        birth = wire.encode_birth(Birth(Role.LISTEN, incarnation)).ljust(wire.PAGE, b"\0")
        status = wire.encode_status(Status(incarnation, None, beat)).ljust(wire.PAGE, b"\0")
        return (birth + status)[offset : offset + length]

    def head_with_news(file: MemoryFile, offset: int, length: int) -> bytes:
        nonlocal beat
        beat += news
        return head(file, offset, length)

    fs = MemoryFilesystem(views={"held": head, "dontneed": head_with_news})
    fs.create(LISTEN, HEAD_LENGTH)
    mailboxes = fs.storage(DIAL, LISTEN, ("held", "dontneed"))
    told: list[muxfs.Change] = []
    engine = Engine.start(Role.DIAL, EngineConfig(), 1, bytes, 0.0)
    escalation = Escalation(engine, mailboxes, told.append, lambda: None)
    for news in (True, False, True, False, True):  # noqa: B007  (the views see it)
        await escalation._ask_others(engine.standing)
        assert not told
    await escalation._ask_others(engine.standing)
    assert told == [muxfs.AccessChanged("held+memory", "dontneed+memory")]


async def test_real_files_behind_a_cache_that_is_never_asked_again(
    tmp_path: Path, monkeypatch
) -> None:
    """Both ends seem to be on NFS with plain reads, of which nothing new is ever seen."""
    cache: dict[tuple[int, int, int], bytes] = {}
    really_read = HeldRead.read

    def stale(self: HeldRead, descriptor: int, offset: int, length: int) -> bytes:
        if type(self) is not HeldRead:
            return really_read(self, descriptor, offset, length)
        inode = os.fstat(descriptor).st_ino
        data = really_read(self, descriptor, offset, length)
        return cache.setdefault((inode, offset, length), data)

    monkeypatch.setattr(HeldRead, "read", stale)
    choice = Choice((), "held+plain", Source.MEASURED)
    monkeypatch.setattr(filesystem, "choice_for", lambda *_: choice)
    config = muxfs.SessionConfig(capacity=1 << 18, heartbeat=0.2)
    with trio.fail_after(120):
        async with (
            muxfs.open_session(tmp_path, role="listen", config=config) as listen,
            muxfs.open_session(tmp_path, role="dial", config=config) as dial,
        ):
            await listen.wait_established()
            await dial.wait_established()
            await echo(Tunnel(MemoryFilesystem(), listen, dial), b"hello")
            for side in (listen, dial):
                assert side.stats().access in {"direct+plain", "reopen+plain"}
                assert side.stats().escalations == 1
