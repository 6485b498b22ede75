"""Ends that belong to a Slurm job: which tunnel is theirs, and what is told of the job."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

import attrs
import trio

from muxfs import occupancy
from muxfs.blocking import in_thread
from muxfs.cli import removal
from muxfs.cli.failures import NO_INPUT, NO_PERMISSION, UNAVAILABLE, USAGE, Failure
from muxfs.cli.output import Output
from muxfs.cli.survey import heads, is_used
from muxfs.cli.tunnel import tunnels_home
from muxfs.config import SessionConfig
from muxfs.core.wire import Role
from muxfs.endpoint.endpoint import EndpointConfig
from muxfs.endpoint.slots import prepared
from muxfs.info import PeerInfo
from muxfs.slurm import following, queue, supervision, sweeping
from muxfs.slurm.following import Following, JobChanged, NoSuchJob, SlurmBack, SlurmSilent
from muxfs.slurm.jobs import BadJobId, JobId, this_job, tunnel_of
from muxfs.slurm.queue import Job, NoAnswer, NoSlurm, SeveralTasks

_A_FORWARD: Final = re.compile(r"[LRDU]?(\d+|\{port\d*\})(,.*)?|[^./].*:.*", re.ASCII | re.DOTALL)
"""What cannot be a tunnel where one may be left out: ports, and what has a colon in it."""

OWN_PATIENCE: Final = 5.0
"""Seconds that Slurm has to say whether the job runs whose own tunnel is asked for."""


def wanted(args: argparse.Namespace) -> JobId | None:
    """Return the job of --job. Raises Failure."""
    if args.job is None:
        return None
    try:
        return JobId.parse(args.job)
    except BadJobId as error:
        raise Failure(f"--job: {error}", USAGE) from error


def take_tunnel(words: list[str], job: JobId | None) -> tuple[str | None, list[str]]:
    """Divide arguments into TUNNEL and the rest; None: that of `job`, which is to be found out.

    It may be left out with --job, and in a job. Raises Failure.
    """
    here = this_job()
    default = None if here is None else tunnel_of(here.number)
    if job is None and default is None:
        if not words:
            raise Failure("name the TUNNEL, or give --job JOBID", USAGE)
        return words[0], words[1:]
    own_number = here is not None and words[:1] == [str(here.number)]
    if words and (own_number or not _A_FORWARD.fullmatch(words[0])):
        return words[0], words[1:]
    return (None if job is not None else default), words


def provisional(job: JobId | None) -> str:
    """Return the tunnel of a job whose own number is not known before it runs."""
    return tunnel_of(job.number if job is not None else 0)


async def replaces_older(config: EndpointConfig) -> bool:
    """Whether the last end of that role was one of an earlier instance of this job.

    Slurm starts a job again when it has lost a node, which may go on running it. Raises
    OSError, MuxfsError.
    """
    here = this_job()
    if here is None or not here.restarts or config.session.takeover:
        return False
    blocks = (await prepared(config.slots, 0, config.session)).blocks()
    role = Role[config.role.upper()]
    life = await occupancy.last_life(config.slots.storage(0), role, blocks)
    return life is not None and not life.ended and here.replaces(PeerInfo.of(life.birth).label)


async def step_over(job: JobId | None) -> str:
    """Wait until the job that this process is in is over, or its step; say which.

    job: where it is in none. For ever without a job, and where Slurm cannot be asked.
    """
    here = this_job()
    if here is not None:
        descriptor = supervision.supervisor()
        if descriptor is not None:
            await supervision.wait_ended(descriptor)
            return f"the step of job {here.number} is over"
        job = JobId(here.number)
    if job is not None:
        with contextlib.suppress(NoSuchJob, NoSlurm, SeveralTasks):
            return (await Following(job, lambda _: None).until_ended()).ending
    await trio.sleep_forever()
    raise AssertionError("unreachable")


def labelled(config: SessionConfig) -> SessionConfig:
    """Have the other side shown the job that this process is in, if nothing else was wanted."""
    here = this_job()
    return config if config.label or here is None else attrs.evolve(config, label=here.label)


class JobOver(Exception):
    """The job has ended."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.ending)
        self.job = job

    @property
    def exit_code(self) -> int:
        """0 if the job came to a good end."""
        return 0 if self.job.succeeded else 1


@attrs.frozen
class Watch:
    """Follows a job, and tells of it."""

    following: Following
    output: Output

    @classmethod
    def of(cls, job: JobId, output: Output) -> Watch:
        """Begin to follow a job."""

        def tell(event: following.Event) -> None:
            _tell(output, job, event)

        return cls(Following(job, tell), output)

    @classmethod
    async def of_own(cls, number: int, output: Output) -> Watch | None:
        """Begin to follow the running job whose own tunnel that is; None if Slurm has no word.

        Raises Failure if it does not run: nobody is there to be reached.
        """
        job = None
        with trio.move_on_after(OWN_PATIENCE), contextlib.suppress(NoAnswer, OSError):
            job = await in_thread(_known, number)
        if job is None or job.uid not in {None, os.geteuid()}:
            return None
        watch = cls.of(JobId.parse(job.name), output)
        watch.following.last = job
        if job.ended:
            if not job.may_return and not await watch.sweep_unused():
                return None
            raise Failure(job.ending, UNAVAILABLE)
        if not job.running:
            raise Failure(f"job {job.name} does not run: {job.words}", UNAVAILABLE)
        return watch

    async def until_ended(self) -> JobOver:
        """Wait until the job has ended for good."""
        return JobOver(await self.following.until_ended())

    async def until_running(self) -> Job:
        """Wait until the job runs. Raises Failure, JobOver."""
        try:
            job = await self.following.until_running()
        except NoSuchJob as error:
            raise Failure(str(error), NO_INPUT) from error
        except SeveralTasks as error:
            raise Failure(str(error), USAGE) from error
        except NoSlurm as error:
            raise Failure(str(error), UNAVAILABLE) from error
        own = os.geteuid()
        if job.uid is not None and own not in {job.uid, 0}:
            raise Failure(f"job {job.name} belongs to another user (uid {job.uid})", NO_PERMISSION)
        if job.ended:
            await self.sweep_unused()
            raise JobOver(job)
        return job

    async def sweep_unused(self) -> bool:
        """Do as `sweep_own`, unless somebody dials there: another cluster may number alike.

        Whether it is sure that nobody does.
        """
        path, unused = self._left_behind(), False
        with contextlib.suppress(OSError):  # no thread: the `sweep` of another end will
            unused = path is None or not await in_thread(is_used, path, Role.DIAL)
        if unused:
            await self.sweep_own()
        return unused

    async def sweep_own(self) -> None:
        """Remove the job's own tunnel if the job is over: nobody will come back to it."""
        path = self._left_behind()
        if path is not None:
            with contextlib.suppress(OSError):  # as above
                await in_thread(_remove_all, [path])

    def _left_behind(self) -> str | None:
        """Return the job's own tunnel if the job is over."""
        job = self.following.last
        if job is None or not job.ended:
            return None
        return os.path.join(tunnels_home(), tunnel_of(job.number))

    async def sweep(self, tunnel: str) -> None:
        """Remove the own tunnels of other jobs that are over; `tunnel` is in use."""
        with contextlib.suppress(NoAnswer, OSError):  # the next one will
            over = await in_thread(lambda: sweeping.ended(tunnels_home(), tunnel))
            if over:
                before = await in_thread(lambda: {path: _seen(path) for path in over})
                await trio.sleep(sweeping.SILENCE)
                await in_thread(_remove_silent, before)


def _remove_all(paths: Iterable[str]) -> None:
    for path in paths:
        removal.remove(path)


def _remove_silent(before: Mapping[str, dict[str, bytes] | None]) -> None:
    _remove_all(path for path, seen in before.items() if seen is not None and _seen(path) == seen)


def _known(number: int) -> Job | None:
    """Ask for a job by its unique id. Raises NoAnswer; Failure if there is no tunnel either."""
    job = queue.numbered(number)
    if job is None and not os.path.exists(os.path.join(tunnels_home(), tunnel_of(number))):
        raise Failure(f"there is no job {number} that Slurm knows of", NO_INPUT)
    return job


def _seen(path: str) -> dict[str, bytes] | None:
    """Look at a tunnel; None if that fails."""
    try:
        return heads(path)
    except OSError:
        return None


def _tell(output: Output, wanted: JobId, event: following.Event) -> None:
    match event:
        case JobChanged(job):
            facts = attrs.asdict(job) | {"job": job.number, "asked": str(wanted)}
            del facts["number"], facts["uid"]
            words = job.ending if job.ended else f"job {job.name}: {job.words}"
            output.tell("job", f"  {words}", **facts)
        case SlurmSilent(reason):
            words = f"  Slurm does not answer ({reason}); going on, and asking again"
            output.tell("slurm", words, ok=False, error=reason)
        case SlurmBack():
            output.tell("slurm", "  Slurm answers again", ok=True, error="")
