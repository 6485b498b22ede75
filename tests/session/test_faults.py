"""Files that fail, vanish or are spoilt while a session lives: it costs time, never data."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

import muxfs
from muxfs import Code, MuxStream, SessionError
from muxfs.core.wire import HEAD_LENGTH
from muxfs.storage.access import Access
from muxfs.storage.base import Buffer
from muxfs.storage.crew import Crew
from muxfs.testing import MemoryFilesystem, random_versions
from tests.session.tunnel import (
    BIRTH,
    CAPACITY,
    DIAL,
    LISTEN,
    TIMEOUT,
    Tunnel,
    open_side,
    open_tunnel,
    read_all,
    storage,
)

PATIENCE = 200.0
"""Seconds in which a session must have healed."""


async def transfer(
    tunnel: Tunnel, fault: Callable[[], object], length: int = 3 << 20, pause: float = 0.05
) -> float:
    """Send both ways while the fault happens; return how long it took."""
    near, far = await tunnel.stream_pair()
    rng = random.Random(7)
    data = rng.randbytes(length)

    async def send(stream: MuxStream) -> None:
        for at in range(0, length, 60_000):
            await stream.send_all(data[at : at + 60_000])
            await trio.sleep(pause)
        await stream.send_eof()

    async def receive(stream: MuxStream) -> None:
        received = bytearray()
        async for part in stream:
            received += part
        assert received == data

    start = trio.current_time()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for one, other in ((near, far), (far, near)):
                nursery.start_soon(send, one)
                nursery.start_soon(receive, other)
            await trio.sleep(length / 60_000 * pause / 2)
            fault()
    await near.aclose()
    await far.aclose()
    return trio.current_time() - start


async def changes_so_far(changes: trio.MemoryReceiveChannel[muxfs.Change]) -> list[muxfs.Change]:
    await trio.sleep(10)
    found = []
    try:
        while True:
            found.append(changes.receive_nowait())
    except trio.WouldBlock:
        return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
async def test_failing_writes_are_told_once_and_lose_nothing(
    autojump_clock: MockClock, number: int
) -> None:
    async with (
        open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel,
        trio.open_nursery() as nursery,
    ):
        changes = tunnel.dial.changes()

        async def fail_for_a_while() -> None:
            tunnel.fs.files[DIAL].fail("write", number, times=None)
            await trio.sleep(20)
            tunnel.fs.files[DIAL].heal()

        await transfer(tunnel, lambda: nursery.start_soon(fail_for_a_while))

        trouble, recovered = await changes_so_far(changes)
        assert isinstance(trouble, muxfs.StorageTrouble)
        assert trouble.error.errno == number
        assert isinstance(recovered, muxfs.StorageRecovered)


async def test_a_late_fsync_error_that_took_earlier_writes(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(latency=0.001, versions=50)
    async with open_tunnel(fs) as tunnel:
        await transfer(tunnel, lambda: fs.files[DIAL].fail("write", errno.EIO, lost=40))
        assert tunnel.dial.stats().rewritten


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
async def test_failing_reads_are_told_once_and_lose_nothing(
    autojump_clock: MockClock, number: int
) -> None:
    async with (
        open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel,
        trio.open_nursery() as nursery,
    ):
        changes = tunnel.listen.changes()

        async def fail_for_a_while() -> None:
            tunnel.fs.files[DIAL].fail("read", number, times=None)
            await trio.sleep(25)
            tunnel.fs.files[DIAL].heal()

        await transfer(tunnel, lambda: nursery.start_soon(fail_for_a_while))

        found = [type(change) for change in await changes_so_far(changes)]
        assert found.count(muxfs.StorageTrouble) == found.count(muxfs.StorageRecovered)
        assert found.count(muxfs.StorageTrouble) == (1 if number == errno.EIO else 0)
        assert muxfs.Lost not in found


async def test_a_mailbox_that_cannot_be_written_for_too_long(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    start = trio.current_time()
    with pytest.raises(SessionError) as caught:  # noqa: PT012
        async with open_side(fs, "dial") as dial:
            changes = dial.changes()
            fs.files[DIAL].fail("write", errno.EDQUOT, times=None)
            await trio.sleep_forever()
    assert caught.value.code is Code.STORAGE
    assert trio.current_time() - start == pytest.approx(TIMEOUT, abs=20)
    assert [type(change) async for change in changes] == [muxfs.StorageTrouble]


async def test_statuses_that_cannot_be_written_for_too_long(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A birth block that can be written is no recovery: ten tries a second went on for ever."""
    fs = MemoryFilesystem()
    mailboxes = storage(fs, "dial")
    write = mailboxes.writer.write
    failed: list[float] = []

    async def fail(offset: int, buffers: Sequence[Buffer]) -> None:
        if BIRTH.stop <= offset < HEAD_LENGTH:
            failed.append(trio.current_time())
            raise OSError(errno.EIO, "a bad block")
        await write(offset, buffers)

    with pytest.raises(SessionError) as caught:  # noqa: PT012
        async with open_side(fs, "dial", mailboxes):
            monkeypatch.setattr(mailboxes.writer, "write", fail)
            with trio.fail_after(PATIENCE):
                await trio.sleep_forever()
    assert caught.value.code is Code.STORAGE
    assert failed[-1] - failed[0] == pytest.approx(TIMEOUT, abs=20)
    assert len(failed) < 30


@pytest.mark.parametrize("name", [DIAL, LISTEN])
async def test_an_unlinked_mailbox_is_made_again(
    autojump_clock: MockClock, name: Literal["dial.mbx", "listen.mbx"]
) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel:
        await transfer(tunnel, lambda: tunnel.fs.unlink(name))
        await trio.sleep(60)
        # and as long as the reader holds the old file, nothing is even noticed
        tunnel.fs.unlink(name)
        await trio.sleep(60)
        assert name in tunnel.fs.files
        await transfer(tunnel, lambda: None)


async def test_a_directory_that_vanishes_for_a_while(autojump_clock: MockClock) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel:
        fs = tunnel.fs
        fs.files.clear()
        fs.gone = True
        await trio.sleep(40)
        fs.gone = False
        await transfer(tunnel, lambda: None)
        await trio.sleep(60)
        assert set(fs.files) == {DIAL, LISTEN}
        await transfer(tunnel, lambda: None)


@pytest.mark.parametrize("size", [0, 100, 5000, 16384, 300_000])
async def test_a_truncated_mailbox_heals(autojump_clock: MockClock, size: int) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel:
        await transfer(tunnel, lambda: tunnel.fs.files[DIAL].truncate(size))
        await trio.sleep(60)
        assert tunnel.fs.files[DIAL].size == CAPACITY + 16384


@pytest.mark.parametrize("kind", ["random", "zeros", "itself, shifted"])
@pytest.mark.parametrize("where", ["head", "ring", "all"])
async def test_an_overwritten_mailbox_heals(
    autojump_clock: MockClock, kind: str, where: str
) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.001)) as tunnel:
        fs = tunnel.fs
        start, end = {"head": (0, 16384), "ring": (16384, None), "all": (0, None)}[where]

        def spoil() -> None:
            own = fs.files[DIAL].read(0, CAPACITY + 16384)
            content = {
                "random": random.Random(3).randbytes(len(own)),
                "zeros": bytes(len(own)),
                "itself, shifted": own[64:] + own[:64],
            }[kind]
            fs.files[DIAL].write(start, [content[start:end]])
            fs.notify()

        await transfer(tunnel, spoil)
        await trio.sleep(60)
        await transfer(tunnel, lambda: None)
        assert tunnel.dial.state is tunnel.listen.state is muxfs.SessionState.ESTABLISHED


async def test_a_mailbox_that_was_copied_over_the_other(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    with trio.fail_after(20), pytest.raises(SessionError, match="wrong role") as caught:  # noqa: PT012
        async with open_tunnel(fs):
            await trio.sleep(10)  # a young one would mend it before it is seen
            fs.files[DIAL].write(0, [fs.files[LISTEN].read(0, CAPACITY)])
            await trio.sleep_forever()
    assert caught.value.code is Code.PROTOCOL


async def test_reads_that_show_old_pages(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem(
        latency=0.001, versions=8, choose=random_versions(random.Random(5), stale=0.3)
    )

    def settle() -> None:
        fs.choose = None

    async with open_tunnel(fs) as tunnel:
        await transfer(tunnel, settle)
        assert tunnel.dial.stats().torn + tunnel.dial.stats().stale


async def test_late_visibility(autojump_clock: MockClock) -> None:
    async with open_tunnel(MemoryFilesystem(latency=0.02, visibility=1.0)) as tunnel:
        await transfer(tunnel, lambda: None, length=1 << 20)
        assert tunnel.dial.stats().rewritten <= 2  # before the first round trip is measured


async def test_a_user_who_may_have_no_more_threads_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a login node counts all processes of a user, or of their slice."""
    settings = muxfs.SessionConfig(capacity=256 << 10, access=Access.named("direct+dsync"))

    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "muxfs storage":
            raise RuntimeError("can't start new thread")
        start(thread)

    # each job in a thread of its own
    monkeypatch.setattr(Crew, "_take_back", lambda _crew, worker: worker.dismiss())
    with trio.fail_after(PATIENCE):
        async with (
            muxfs.open_session(tmp_path, role="listen", config=settings) as listen,
            muxfs.open_session(tmp_path, role="dial", config=settings) as dial,
        ):
            changes = listen.changes()
            await dial.wait_established()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                trouble = await changes.receive()
                while not isinstance(trouble, muxfs.StorageTrouble):
                    trouble = await changes.receive()
            assert trouble.error.errno == errno.EAGAIN
            near, far = await Tunnel(MemoryFilesystem(), listen, dial).stream_pair()
            await near.send_all(b"all is well")
            await near.aclose()
            assert await read_all(far) == b"all is well"
            await far.aclose()
