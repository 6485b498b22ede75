"""What Slurm says of jobs: squeue, and sacct for those that have left the queue. Trio-free.

Rule 1: fixed formats and widths, and no setting of the user's that changes the output.
Rule 2: one small question at a time (one job, or one user's), never all jobs of a site.
Rule 3: a controller that does not answer says nothing of the job: `NoAnswer`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

import attrs

from muxfs.errors import printable
from muxfs.slurm.jobs import JobId

ANSWER_TIME: Final = 30.0
"""Seconds for an answer; squeue itself gives up after two of Slurm's MessageTimeout of 10 s."""

_FIELDS: Final = (
    ("JobID", 16),
    ("JobArrayID", 64),
    ("UserID", 16),
    ("State", 24),
    ("RestartCnt", 10),
    ("exit_code", 16),
    ("NodeList", 256),
    ("Reason", 96),
)
"""Fields of squeue's `--Format`, with their widths in characters: it cuts what is longer."""
_SETTINGS: Final = ("SQUEUE_", "SACCT_")
"""How the names of environment variables begin that change the output."""
_UNKNOWN_JOB: Final = "Invalid job id specified"

_ENDINGS: Final = {
    "COMPLETED": "has completed",
    "FAILED": "failed",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted",
    "DEADLINE": "missed its deadline",
    "BOOT_FAIL": "did not start: its node failed to boot",
    "LAUNCH_FAILED": "could not be launched",
    "RECONFIG_FAIL": "did not start: its node could not be configured",
    "REVOKED": "was taken over by another cluster",
    "GONE": "has left the queue",
}
_RUNNING: Final = frozenset(
    {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)


class NoAnswer(Exception):
    """Slurm could not be asked; `str()` says why, for people."""


class NoSlurm(NoAnswer):
    """This host has no Slurm commands."""


class SeveralTasks(Exception):
    """The id of an array, where one of its tasks was to be named."""


@attrs.frozen
class Job:
    """A job as Slurm describes it."""

    number: int
    """Its unique id; of a task of an array that has not started, the array's."""
    name: str
    """As `JobId` writes it; `123_[4-9]` for tasks that have not started."""
    state: str
    """A state of squeue, such as RUNNING; GONE if Slurm has forgotten it."""
    uid: int | None = None
    restarts: int = 0
    exit_status: int = 0
    """As waitpid(2) gives it."""
    node: str = ""
    """The nodes, as in `c[1-2]`; "" while it has none."""
    reason: str = ""
    """Why it waits, or ended; "" without one."""

    @property
    def running(self) -> bool:
        """Whether its processes may run."""
        return self.state in _RUNNING

    @property
    def ended(self) -> bool:
        """Whether it is over; states that are not known count as a life."""
        return self.state in _ENDINGS

    @property
    def may_return(self) -> bool:
        """Whether Slurm may be about to requeue it, though it says that it has ended."""
        return self.state in {"NODE_FAIL", "PREEMPTED", "GONE"}

    @property
    def succeeded(self) -> bool:
        """Whether it came to its end by itself, with exit code 0, as far as is known."""
        return self.state in {"COMPLETED", "GONE"}

    @property
    def ending(self) -> str:
        """Say how it ended."""
        words = f"job {self.name} {_ENDINGS[self.state]}"
        if self.state == "FAILED" and self.exit_status:
            code = os.waitstatus_to_exitcode(self.exit_status)
            words += f" (exit code {code})" if code >= 0 else f" (signal {-code})"
        return words

    @property
    def words(self) -> str:
        """Say how it is, in a few words."""
        details = [f"restarted {self.restarts} times" if self.restarts > 1 else "restarted"]
        details = details[: 1 if self.restarts else 0]
        if self.reason and not self.running:
            details.insert(0, self.reason)
        where = f" on {self.node}" if self.node and self.running else ""
        return self.state + where + (f" ({', '.join(details)})" if details else "")


def look(job: JobId) -> Job | None:
    """Ask for one job; None for one that Slurm does not know (any more).

    Of a job of several components without the number of one, the first; of an array
    without a task, all tasks that wait count as one. Raises NoAnswer, SeveralTasks. Blocks.
    """
    lines = _squeue("-j", f"{job.number}" + ("" if job.task is None else f"_{job.task}"))
    jobs = [_job(line) for line in lines]
    wanted = [found for found in jobs if _is(found, job)]
    if not wanted:
        return _finished(job)
    if len(wanted) > 1:
        raise SeveralTasks(f"job {job} is an array: name one of its tasks, such as {job}_0")
    return wanted[0]


def jobs_of(uid: int, within: float = ANSWER_TIME) -> list[Job]:
    """Ask for all jobs of a user that Slurm knows. Raises NoAnswer. Blocks, so many seconds."""
    return [_job(line) for line in _squeue("-u", str(uid), within=within)]


def named(number: int) -> JobId:
    """Return how people name the job with that unique id: a task of an array has two numbers.

    The last task to start has that of the whole array. Raises NoAnswer. Blocks.
    """
    found = numbered(number)
    return JobId.parse(found.name) if found is not None and "_" in found.name else JobId(number)


def numbered(number: int) -> Job | None:
    """Ask for the job with that unique id; None if Slurm has none. Raises NoAnswer. Blocks."""
    jobs = map(_job, _squeue("-j", str(number)))
    return next((job for job in jobs if job.number == number and "[" not in job.name), None)


def is_left(job: JobId) -> bool:
    """Whether the job, or any task of that array, has not ended. Raises NoAnswer. Blocks."""
    return not all(_job(line).ended for line in _squeue("-j", str(job)))


def has_jobs(host: str, session: int) -> bool:
    """Whether jobs of this user that were submitted in that session of a host have not ended.

    Raises NoAnswer. Blocks.
    """
    words = ["squeue", "--noheader", "--Format=AllocNodes:256,AllocSID:16", "-u", str(os.getuid())]
    done = _run(words)
    if done.returncode:
        raise NoAnswer(_last_line(done) or f"squeue ended with {done.returncode}")
    # Slurm notes the host without its domain, which may be part of the name that it has here
    names = {host, host.partition(".")[0]}
    found = [line.split() for line in done.stdout.splitlines()]
    return any(words[:1] and words[0] in names and words[1:] == [str(session)] for words in found)


def _is(found: Job, wanted: JobId) -> bool:
    if wanted.component is not None:
        return found.name == str(wanted)
    # 123 is 123+0; and one task of an array has the array's own number
    return "+" not in found.name or found.name == f"{wanted.number}+0" or found.number == wanted[0]


def _squeue(*arguments: str, within: float = ANSWER_TIME) -> list[str]:
    columns = ",".join(f"{name}:{width}" for name, width in _FIELDS)
    done = _run(["squeue", "--noheader", "--states=all", "--Format", columns, *arguments], within)
    if done.returncode == 0:
        lines = done.stdout.splitlines()
        # the heading is there also with --noheader, if SLURM_CLUSTERS names one
        return [line for line in lines if line.strip() and not line.startswith("CLUSTER: ")]
    if _UNKNOWN_JOB in done.stderr:
        return []
    raise NoAnswer(_last_line(done) or f"squeue ended with {done.returncode}")


def _job(line: str) -> Job:
    values: list[str] = []
    at = 0
    for _, width in _FIELDS:
        values.append(printable(line[at : at + width].strip()))
        at += width
    number, name, uid, state, restarts, status, node, reason = values
    return Job(
        number=_number(number),
        name=name,
        state=state,
        uid=_number(uid) if uid.isdecimal() else None,
        restarts=_number(restarts),
        exit_status=_number(status),
        node="" if node in {"n/a", "(null)"} else node,
        reason="" if reason in {"None", "(null)"} else reason,
    )


def _finished(job: JobId) -> Job | None:
    """Ask the accounting, which sites may not have, for one that has left the queue."""
    fields = "JobIDRaw,State,ExitCode,NodeList"
    try:
        done = _run(["sacct", "-X", "-n", "-P", "-j", str(job), "-o", fields])
    except NoAnswer:
        return None
    found = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 3]
    if done.returncode or not found:
        return None
    number, state, status, node = found[-1]  # of one that was requeued the last instance
    code, _, signal = status.partition(":")
    return Job(
        number=_number(number),
        name=str(job),
        state=printable(state.partition(" ")[0]),  # CANCELLED by 1000
        exit_status=_number(code) << 8 | _number(signal),
        node=printable(node),
    )


def _run(command: Sequence[str], within: float = ANSWER_TIME) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    environ["LC_ALL"] = "C"
    try:
        return subprocess.run(  # noqa: S603  (found on the user's PATH, as everywhere)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environ,
            timeout=within,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} gave no answer in {within:g} s") from None
    except FileNotFoundError:
        raise NoSlurm(f"this host has no {command[0]}: Slurm's commands are missing") from None
    except OSError as error:
        raise NoAnswer(f"cannot run {command[0]}: {error.strerror}") from error


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return printable(lines[-1]) if lines else ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
