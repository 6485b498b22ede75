"""The helpers of --tunnel: `follow` on the submission host, and `serve` in the job.

They find out where the tunnel is and what the list means for their side; then they are
`muxfs listen --job` and `muxfs dial --job`.
Rule: what they say goes to the terminal or the output of the user's job: only what the
user has to know.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from muxfs.cli import main, removal
from muxfs.cli.failures import NO_PERMISSION, USAGE, Failure, exit_code_of
from muxfs.control.place import Unsafe
from muxfs.slurm import own, places, queue, step
from muxfs.slurm.jobs import BadJobId, JobId, this_job
from muxfs.slurm.plan import Command, Plan, SpecError
from muxfs.slurm.queue import NoAnswer
from muxfs.slurm.submission import start_helper
from muxfs.slurm.submitter import Submitter

FIRST_LOOK: Final = 0.2
LONGEST_LOOK: Final = 15.0
GROWTH: Final = 1.25
"""Seconds between looks for a job that has not told yet that it runs."""
ASK_EVERY: Final = 60.0
"""Seconds between questions to Slurm whether it may still do so."""

_REDIRECTION: Final = re.compile(r"([12]?)>(>?)(&[12]|[^&].*)")


def serve(args: argparse.Namespace) -> int:
    """Be the job's side. Raises Failure."""
    job = this_job()
    if job is None:
        raise Failure("muxfs slurm serve is for Slurm jobs: there is no SLURM_JOB_ID", USAGE)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the job's own programs
    _cut_off()
    plan = _plan(args)
    template = _template(args)
    words = _extra_words(args)
    tunnel = _tunnel(template, job.number, args.step)
    if args.token:  # also when it is started again: its first start may have failed early
        with _told(f"cannot tell the submission host that job {job.number} runs"):
            places.announce(template, args.token, job.number)
    code = main(["dial", "--quiet", "--job", str(job.number), tunnel, *plan.dial_words, *words])
    return 0 if code == 128 + signal.SIGTERM else code  # Slurm's polite end is no failure


def follow(args: argparse.Namespace) -> int:
    """Be the submission host's side, until the job or the submitter has ended. Raises Failure."""
    with contextlib.suppress(PermissionError):  # where it leads a group already
        os.setsid()
    _cut_off()
    command, plan, template = Command(args.command_name), _plan(args), _template(args)
    extra = _extra_words(args)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "_SLURM_"))]:
        if name != "SLURM_CONF":  # the others would have srun and squeue do something else
            del os.environ[name]
    job = _job(args.job) if args.job else None
    side: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    log = f"slurm-{job or args.token}.log" if command is Command.SBATCH else ""
    if command is Command.SBATCH:
        _write_log(log)
        job = _of_several(args, template, job) if args.token else job
    else:
        submitter = Submitter.find(args.submitter or 0)
        if submitter is None:
            return 0  # it has ended already
        job = job or _allocated(submitter)
        submitter.at_end(lambda: os.kill(os.getpid(), signal.SIGTERM))
        if job is not None and args.start_serve:
            side = step.running(job, _serve_words(args), submitter)
    if job is None:
        own.forget_log(log)
        return 0
    tunnel = _tunnel(template, args.number or job.number, args.step)
    with _told("cannot run srun"), side:
        code = main(["listen", "--quiet", "--job", str(job), tunnel, *plan.listen_words, *extra])
    if command is not Command.SBATCH or _is_over(job):  # nobody will look there again
        removal.remove(tunnel)  # no more than that: the directory may be one of the user's
        places.announced(template, args.token)
        own.forget_log(log)
    return code


def _serve_words(args: argparse.Namespace) -> list[str]:
    return _again(args, "serve", *([] if args.step is None else [f"--step={args.step}"]))


def _cut_off() -> None:
    """Keep nothing of srun's, slurmstepd's or a shell's but standard error."""
    os.closerange(3, 256)
    os.chdir("/")


def _write_log(name: str) -> None:
    """Let nothing that waits for the output of sbatch wait for this process."""
    with _told("cannot write a log"):
        log = own.log(name)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _plan(args: argparse.Namespace) -> Plan:
    try:
        return Plan.parse(args.tunnel, Command(args.command_name))
    except SpecError as error:
        raise Failure(f"--tunnel: {error}", USAGE) from error
    except ValueError:
        words = f"{args.command_name!r} is not a command: srun, sbatch or salloc"
        raise Failure(words, USAGE) from None


def _template(args: argparse.Namespace) -> str:
    try:
        return places.template(args.dir)
    except places.BadTemplate as error:
        raise Failure(str(error), USAGE) from error


def _job(text: str) -> JobId:
    try:
        return JobId.parse(text)
    except BadJobId as error:
        raise Failure(f"--job: {error}", USAGE) from error


def _tunnel(template: str, job: int, step: int | None) -> str:
    path = places.directory(template, job, step)
    with _told(f"cannot make {os.path.dirname(path)}"):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Unsafe as error:
        raise Failure(f"{what}: {error}", NO_PERMISSION) from error
    except OSError as error:
        raise Failure(f"{what}: {error.strerror}", exit_code_of(error)) from error


def _extra_words(args: argparse.Namespace) -> list[str]:
    """Return what the administrator adds to the command; redirect its output on the way."""
    words: list[str] = args.args.split()
    for word in args.helpertask_args.split():
        found = _REDIRECTION.fullmatch(word)
        if found is None:
            words.append(word)
            continue
        with _told(f"cannot write to {found[3]}"):
            _redirect(int(found[1] or 1), found[3], append=bool(found[2]))
    return words


def _redirect(descriptor: int, target: str, *, append: bool) -> None:
    if target.startswith("&"):
        os.dup2(int(target[1:]), descriptor)
        return
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    opened = os.open(target, flags, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)


def _allocated(submitter: Submitter) -> JobId | None:
    """Wait until salloc has started its command; None if it ends before."""
    nap = FIRST_LOOK
    while not submitter.wait(nap):
        number = submitter.job_of_children()
        if number is not None:
            return JobId(number)
        nap = min(nap * GROWTH, LONGEST_LOOK)
    return None


def _of_several(args: argparse.Namespace, template: str, job: JobId | None) -> JobId | None:
    """Find the job by its token, or start one helper for each task of an array.

    None when Slurm knows of no more that could come.
    """
    submitter = Submitter.find(args.submitter or 0)
    started: set[int] = set()
    helpers: list[subprocess.Popen[bytes]] = []
    nap, asked = FIRST_LOOK, time.monotonic() - ASK_EVERY
    while True:
        for number in places.announced(template, args.token):
            if number in started:
                continue
            name = _named(number)
            if name.task is None:
                return name
            started.add(number)
            words = _again(args, "follow", f"--job={name}", f"--number={number}")
            helpers += filter(None, [start_helper(words, silent=True)])
        ended = [helper for helper in helpers if helper.poll() is not None]
        if ended:
            helpers = [helper for helper in helpers if helper not in ended]
            asked -= ASK_EVERY  # the whole array may have ended
        submitted = submitter is None or submitter.wait(0)
        if submitted and time.monotonic() - asked >= ASK_EVERY:
            asked = time.monotonic()
            if not _may_start(job, args.session):
                return None
        time.sleep(nap)
        nap = min(nap * GROWTH, LONGEST_LOOK)


def _named(number: int) -> JobId:
    while True:
        try:
            return queue.named(number)
        except NoAnswer:
            time.sleep(ASK_EVERY)


def _may_start(job: JobId | None, session: int) -> bool:
    try:
        return queue.is_left(job) if job else queue.has_jobs(socket.gethostname(), session)
    except NoAnswer:
        return True


def _is_over(job: JobId) -> bool:
    try:
        return not queue.is_left(job)
    except NoAnswer:
        return False


def _again(args: argparse.Namespace, action: str, *more: str) -> list[str]:
    """Return the words for another helper of the same tunnel list."""
    words = ["slurm", action, args.command_name, f"--tunnel={args.tunnel}", *more]
    values = {"--dir": args.dir, "--args": args.args, "--helpertask-args": args.helpertask_args}
    return [*words, *(f"{option}={value}" for option, value in values.items() if value)]
