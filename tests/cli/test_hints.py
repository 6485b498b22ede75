"""What is told while nobody comes, in simulated time."""

from __future__ import annotations

import io

import pytest
import trio
from trio.testing import MockClock

from muxfs import PeerInfo, open_session
from muxfs.cli.hints import doctor_line
from muxfs.cli.journal import Journal, no_sign
from muxfs.cli.output import Output, ProgressLine
from muxfs.cli.telling import HINT_AFTER, remind
from muxfs.forwards.sessions import Sessions
from muxfs.testing import MemoryFilesystem


async def test_after_a_minute_without_a_sign(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    told: list[tuple[float, str]] = []

    def tell(words: str) -> None:
        told.append((round(trio.current_time() - start), words))

    sessions = Sessions()
    async with (
        open_session("", role="listen", storage=fs.storage("l", "d")) as session,
        trio.open_nursery() as nursery,
    ):
        start = trio.current_time()
        nursery.start_soon(remind, sessions, tell, "/shared/job on nfs4 (nas:/home)", HINT_AFTER)
        with sessions.including(0, session):
            await trio.sleep(300)
            assert [when for when, _ in told] == [60]
            assert "/shared/job on nfs4 (nas:/home)" in told[0][1]
            assert "same directory, filesystem and server?" in told[0][1]
            async with open_session("", role="dial", storage=fs.storage("d", "l")):
                await session.wait_established()
                await trio.sleep(200)
            await trio.sleep(50)
            assert len(told) == 1
            await trio.sleep(20)
            assert len(told) == 2
        nursery.cancel_scope.cancel()


async def test_nothing_is_told_when_the_other_side_is_there(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    told: list[str] = []
    sessions = Sessions()
    async with (
        open_session("", role="listen", storage=fs.storage("l", "d")) as session,
        open_session("", role="dial", storage=fs.storage("d", "l")),
        trio.open_nursery() as nursery,
    ):
        with sessions.including(0, session):
            nursery.start_soon(remind, sessions, told.append, "here", HINT_AFTER)
            await trio.sleep(300)
            assert told == []
            nursery.cancel_scope.cancel()


async def test_a_session_that_the_other_side_does_not_look_at(autojump_clock: MockClock) -> None:
    fs = MemoryFilesystem()
    told: list[str] = []

    async def elsewhere() -> PeerInfo:
        return PeerInfo("node17", 12, "ann", "then", "muxfs", "", 3)

    sessions = Sessions()
    async with (
        open_session("", role="listen", storage=fs.storage("l", "d")) as session,
        trio.open_nursery() as nursery,
    ):
        with sessions.including(4, session):
            nursery.start_soon(remind, sessions, told.append, "here", HINT_AFTER, elsewhere)
            await trio.sleep(300)
        nursery.cancel_scope.cancel()
    (words,) = told
    assert words.startswith("the other side (node17, pid 12, user ann) is there, and does not look")
    assert "--sessions 5 or more" in words


def test_words_for_a_peer_that_does_not_answer() -> None:
    peer = PeerInfo("node17", 12, "ann", "then", "muxfs", "", 3)
    words = no_sign("/shared/job", peer, 60)
    assert words.startswith("no answer for 1 min. There is a file of node17, pid 12, user ann in")


def test_the_doctor_is_named() -> None:
    said = io.StringIO()
    command = doctor_line("job 42")
    Journal(Output(words_to=said)).hint("no sign of the other side.", 60.0, command)
    assert said.getvalue() == (
        "  no sign of the other side. To find out, run on both hosts:   "
        "muxfs doctor 'job 42' --peer\n"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressLine, "QUIET_TIME", 0.0)
    monkeypatch.setattr(ProgressLine, "INTERVAL", 0.0)
    line = ProgressLine(stream)
    for done in (1 << 20, 2 << 20):
        line(done, 16 << 20)
    line.end()
    text = "  preparing the mailbox file: {} MiB of 16.0 MiB"
    if stream.isatty():
        expected = f"\r{text.format('1.0')}\x1b[K\r{text.format('2.0')}\x1b[K\r\x1b[K"
        assert stream.getvalue() == expected
    else:
        assert stream.getvalue() == f"{text.format('1.0')}\n"


def test_progress_of_a_fast_disk_is_not_shown() -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    line(1, 2)
    line.end()
    assert stream.getvalue() == ""
