"""Following one job until it runs, and until it has ended.

Rule: Slurm is asked politely. After news every 2 s, then ever more seldom, up to every 30 s;
nobody else's jobs are asked for. Tunnels tell sooner than Slurm that a job is up or gone:
`hurry` has Slurm asked at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs
import trio

from muxfs.blocking import in_thread
from muxfs.slurm import queue
from muxfs.slurm.jobs import JobId
from muxfs.slurm.queue import Job, NoAnswer, NoSlurm

SHORTEST: Final = 2.0
LONGEST: Final = 30.0
GROWTH: Final = 1.25
"""Seconds between questions, and how they grow: waiting for an hour delays no one by a minute."""
CONFIRM: Final = 10.0
"""Seconds after which an end is asked for again that may be the beginning of a requeue."""


@attrs.frozen
class JobChanged:
    """The job has another state, reason or node than before."""

    job: Job


@attrs.frozen
class SlurmSilent:
    """Slurm does not answer, or cannot be asked: nothing is concluded from that."""

    reason: str


@attrs.frozen
class SlurmBack:
    """Slurm answers again."""


Event: TypeAlias = JobChanged | SlurmSilent | SlurmBack
Ask: TypeAlias = Callable[[JobId], Awaitable[Job | None]]


async def _ask(job: JobId) -> Job | None:
    try:
        return await in_thread(queue.look, job)
    except OSError as error:
        raise NoAnswer(f"Slurm could not be asked: {error.strerror}") from error


class NoSuchJob(Exception):
    """Slurm has never heard of the job; `str()` is one sentence for people."""


@attrs.define
class Following:
    """Follows one job. `report` is told of changes."""

    id: JobId
    report: Callable[[Event], None]
    ask: Ask = _ask
    last: Job | None = None
    """As it was seen last."""
    _silent: bool = False
    _interval: float = SHORTEST
    _wake: trio.Event = attrs.field(factory=trio.Event)

    async def until_running(self) -> Job:
        """Wait until it runs, or has ended. Raises NoSuchJob, NoSlurm, SeveralTasks."""
        return await self._until(lambda job: job.running or job.ended)

    async def until_ended(self) -> Job:
        """Wait until it has ended for good. Raises as `until_running`."""
        return await self._until(lambda job: job.ended)

    def hurry(self) -> None:
        """Ask soon: something has happened that Slurm may know more of."""
        self._interval = SHORTEST
        self._wake.set()

    async def _until(self, reached: Callable[[Job], bool]) -> Job:
        while True:
            job = await self._look()
            if job is not None and job.ended and job.may_return:
                await trio.sleep(CONFIRM)
                job = await self._look()
            if job is not None:
                self._note(job)
                if reached(job):
                    return job
            await self._pause()

    async def _look(self) -> Job | None:
        """Ask once; None without an answer."""
        try:
            job = await self.ask(self.id)
        except NoAnswer as error:
            if self.last is None and isinstance(error, NoSlurm):
                raise
            if not self._silent:
                self.report(SlurmSilent(str(error)))
            self._silent = True
            return None
        if self._silent:
            self._silent = False
            self.report(SlurmBack())
        if job is not None:
            return job
        if self.last is None:
            raise NoSuchJob(f"there is no job {self.id} that Slurm knows of")
        return attrs.evolve(self.last, state="GONE", reason="")

    def _note(self, job: Job) -> None:
        if job != self.last:
            self.last = job
            self._interval = SHORTEST
            self.report(JobChanged(job))

    async def _pause(self) -> None:
        with trio.move_on_after(self._interval) as pause:
            await self._wake.wait()
        if not pause.cancelled_caught:
            self._wake = trio.Event()
            await trio.sleep(SHORTEST)
        self._interval = min(self._interval * GROWTH, LONGEST)
