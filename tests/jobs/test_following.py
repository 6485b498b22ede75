"""Following a job: who is asked, how often, and what is concluded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from muxfs.slurm import following
from muxfs.slurm.following import Following, JobChanged, NoSuchJob, SlurmBack, SlurmSilent
from muxfs.slurm.jobs import JobId
from muxfs.slurm.queue import Job, NoAnswer, NoSlurm

PENDING = Job(7, "7", "PENDING", reason="Priority")
RUNNING = Job(7, "7", "RUNNING", node="c1")
CANCELLED = Job(7, "7", "CANCELLED")
NODE_FAIL = Job(7, "7", "NODE_FAIL")


class Played:
    """Says one thing after the other, each for so many seconds."""

    def __init__(self, *script: tuple[float, Job | NoAnswer | None]) -> None:
        self.start = trio.current_time()
        self.script = script
        self.asked: list[float] = []
        self.events: list[following.Event] = []
        self.following = Following(JobId(7), self.events.append, self.ask)

    async def ask(self, job: JobId) -> Job | None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time() - self.start
        self.asked.append(now)
        answer = self._answer(now)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def _answer(self, now: float) -> Job | NoAnswer | None:
        for lasts, answer in self.script:
            if now < lasts:
                return answer
            now -= lasts
        return self.script[-1][1]

    @property
    def states(self) -> Iterator[Any]:
        for event in self.events:
            yield event.job.state if isinstance(event, JobChanged) else type(event)


async def test_the_life_of_a_job(autojump_clock: MockClock) -> None:
    played = Played((100, PENDING), (100, RUNNING), (1, CANCELLED))
    assert await played.following.until_running() == RUNNING
    assert await played.following.until_ended() == CANCELLED
    assert list(played.states) == ["PENDING", "RUNNING", "CANCELLED"]


async def test_questions_are_few(autojump_clock: MockClock) -> None:
    played = Played((86_400, PENDING), (1, RUNNING))
    await played.following.until_running()
    assert len(played.asked) < 86_400 / 30 + 20
    pauses = [b - a for a, b in zip(played.asked, played.asked[1:], strict=False)]
    assert pauses[0] == following.SHORTEST
    assert max(pauses) == following.LONGEST
    assert trio.current_time() - played.start < 86_400 + 2 * following.LONGEST


async def test_a_sign_has_it_asked_soon(autojump_clock: MockClock) -> None:
    played = Played((1000, RUNNING), (1, CANCELLED))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(played.following.until_ended)
        await trio.sleep(1001)
        before = len(played.asked)
        played.following.hurry()
        await trio.sleep(following.SHORTEST + 0.1)
        assert len(played.asked) > before


async def test_a_controller_that_is_started_again_ends_nothing(autojump_clock: MockClock) -> None:
    played = Played(
        (10, RUNNING),
        (600, NoAnswer("no route")),
        (50, RUNNING),
        (60, NoAnswer("x")),
        (1, CANCELLED),
    )
    assert await played.following.until_ended() == CANCELLED
    told = ["RUNNING", SlurmSilent, SlurmBack, SlurmSilent, SlurmBack, "CANCELLED"]
    assert list(played.states) == told


async def test_one_that_never_was(autojump_clock: MockClock) -> None:
    played = Played((1, None))
    with pytest.raises(NoSuchJob, match="there is no job 7"):
        await played.following.until_running()


async def test_one_that_slurm_has_forgotten(autojump_clock: MockClock) -> None:
    played = Played((100, RUNNING), (1, None))
    job = await played.following.until_ended()
    assert job.ending == "job 7 has left the queue"


@pytest.mark.parametrize("passing", [NODE_FAIL, None])
async def test_an_end_that_is_the_beginning_of_a_requeue(
    autojump_clock: MockClock, passing: Job | None
) -> None:
    """It must be seen twice, ten seconds apart."""
    answers = [RUNNING, passing, PENDING, RUNNING, CANCELLED]

    async def ask(_job: JobId) -> Job | None:
        await trio.lowlevel.checkpoint()
        return answers.pop(0)

    played = Played()
    played.following.ask = ask
    assert await played.following.until_ended() == CANCELLED
    assert list(played.states) == ["RUNNING", "PENDING", "RUNNING", "CANCELLED"]


async def test_no_slurm_at_all_is_said_at_once(autojump_clock: MockClock) -> None:
    played = Played((1, NoSlurm("this host has no squeue")))
    with pytest.raises(NoSlurm):
        await played.following.until_running()


async def test_commands_that_vanish_later_end_nothing(autojump_clock: MockClock) -> None:
    """An upgrade of Slurm, or a filesystem with its commands that is away for a moment."""
    played = Played((100, RUNNING), (100, NoSlurm("gone")), (1, CANCELLED))
    assert await played.following.until_ended() == CANCELLED
