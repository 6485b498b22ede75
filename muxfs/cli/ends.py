"""The life of one end of a tunnel: what `muxfs listen` and `muxfs dial` have in common."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import os
import resource
import signal
import sys
from typing import Final, Literal

import attrs
import trio

from muxfs.blocking import in_thread
from muxfs.cli import forwarding, hints, jobs, readiness, settings, tunnel
from muxfs.cli.child import SIGNALS, Child
from muxfs.cli.end import End
from muxfs.cli.failures import Failure, exit_code_of
from muxfs.cli.heap import give_back_when_quiet, keep_freed_memory, spare_the_collector
from muxfs.cli.jobs import JobOver, Watch
from muxfs.cli.signals import Stop
from muxfs.cli.telling import HINT_AFTER, Preparation, Teller, announce, remind, tell_instead
from muxfs.control.place import Unsafe
from muxfs.core.wire import RING_OFFSET, Code
from muxfs.endpoint.control import Control
from muxfs.endpoint.endpoint import (
    Endpoint,
    open_endpoint,
)
from muxfs.errors import MuxfsError, SessionError
from muxfs.forwards.admission import Admission
from muxfs.forwards.spec import AnyTarget, Forward, Port
from muxfs.slurm.jobs import tunnel_of
from muxfs.storage.filesystem import find_filesystem
from muxfs.units import amount, span

TAKEOVER_PATIENCE: Final = 30.0
"""Seconds that the process that was taken over may take to notice it, and leave its ports."""
TAKEOVER_LOOK: Final = 0.25
LOOK_NOTICE: Final = 2.0
"""Seconds of opening a session until it is told what takes so long."""


def run_end(role: Literal["listen", "dial"], args: argparse.Namespace) -> int:
    """Run `muxfs listen` or `muxfs dial`. Raises Failure."""
    job = jobs.wanted(args)
    name, words = jobs.take_tunnel(args.words, job)
    setattr(args, "forwards" if role == "listen" else "targets", words)
    output, policy = settings.output(args), forwarding.policy(role, args)
    child = None
    if args.command:
        output.events_to = sys.stderr  # standard output is the command's
        child = Child(args.command, policy.targets, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return run(
        End(
            child=child,
            role=role,
            job=job,
            tunnel=tunnel.resolve(jobs.provisional(job) if name is None else name),
            tunnel_said=name is not None,
            session=jobs.labelled(settings.session_config(args)),
            connect_timeout=args.connect_timeout,
            output=output,
            forwards=forwarding.forwards(args),
            policy=policy,
            admission=Admission(args.any_user),
            insecure=args.insecure_dir,
            persist=args.persist if role == "listen" else 0.0,
            most_sessions=args.sessions,
        )
    )


def run(end: End) -> int:
    """Run one end until it is over; return the exit code."""
    _allow_many_connections()
    keep_freed_memory()
    spare_the_collector()
    return trio.run(_run, end)


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(end: End) -> int:
    stop = Stop()
    if end.child is not None:
        stop.deliver, stop.more = end.child.deliver, SIGNALS
    code, reason, exit_code = Code.SHUTDOWN.name, "", 0
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.watch)
        with stop.scope:
            code, reason, exit_code = await _serve_and_explain(end, stop, nursery)
        if end.child is not None and end.child.running:
            end.output.complain("there is no tunnel any more; the command goes on")
            await stop.requested.wait()
            exit_code = 0
        if stop.number:
            code, reason, exit_code = Code.SHUTDOWN.name, stop.name, stop.exit_code
        elif stop.outcome and not exit_code:
            reason, exit_code = stop.outcome
        nursery.cancel_scope.cancel()
    end.journal.closed(code, reason, exit_code)
    return exit_code


async def _excuse_delay(end: End, stop: Stop) -> None:
    with trio.move_on_after(LOOK_NOTICE):
        await stop.serving.wait()
    if not stop.serving.is_set():
        end.output.say(f"  looking whether another muxfs {end.role} is at work there")


async def _serve_and_explain(end: End, stop: Stop, nursery: trio.Nursery) -> tuple[str, str, int]:
    """Serve until a signal, or until something ends it: code, reason and exit code of that."""
    code = Code.INTERNAL.name
    try:
        await _serve(end, stop, nursery)
    except JobOver as over:
        stop.end(str(over), over.exit_code)
        return Code.SHUTDOWN.name, str(over), over.exit_code
    except SessionError as error:
        code, failure = error.code.name, Failure(str(error), error.exit_code)
    except MuxfsError as error:
        failure = Failure(str(error), error.exit_code)
    except Failure as error:
        failure = error
    except OSError as error:
        failure = _explain(end, error)
    else:
        return Code.SHUTDOWN.name, "", 0
    end.output.complain(str(failure))
    return code, str(failure), failure.exit_code


def _explain(end: End, error: OSError) -> Failure:
    path = error.filename or end.tunnel.sessions
    words = f"cannot use {path}: {error.strerror or error}"
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if error.errno in {*full, errno.EIO}:
        # EIO: what sshfs says of a full disk, too, since SFTP has no word for it
        words += "; " if error.errno in full else "; if its disk is full: "
        need = amount(RING_OFFSET + end.session.capacity)
        words += f"the mailbox file needs {need} (see --ring)"
    return Failure(words, exit_code_of(error))


async def _serve(end: End, stop: Stop, tasks: trio.Nursery) -> None:
    watch = None
    if end.job is not None and end.role == "listen":
        watch = Watch.of(end.job, end.output)
        job = await watch.until_running()
        if not end.tunnel_said:
            end = attrs.evolve(end, tunnel=tunnel.resolve(tunnel_of(job.number)))
    elif end.persist and (number := end.own_job) is not None:
        watch = await Watch.of_own(number, end.output)
    if end.role == "dial":
        tasks.start_soon(_end_with_step, end, stop)
    tasks.start_soon(_excuse_delay, end, stop)
    place, real_path = await in_thread(_prepare, end)
    end.output.say(f"muxfs {end.role}: {place}")
    progress = Preparation(end.output)
    teller = Teller(end, place, watch)
    if end.role == "dial" and await jobs.replaces_older(end.config()):
        end.output.say("  replacing an earlier instance of this job")
        end = attrs.evolve(end, session=attrs.evolve(end.session, takeover=True))
    async with open_endpoint(end.config(), teller, progress=progress) as endpoint:
        teller.sessions = endpoint.sessions
        if not end.session.takeover:
            for forward in end.forwards:
                await _open_port(endpoint, forward, end)
        await endpoint.start()
        stop.serving.set()
        progress.end()
        if end.session.takeover:  # only now does the other process leave its ports
            await _take_ports(endpoint, end)
        await announce(end, endpoint.forwards, place)
        teller.begin(endpoint.forwards)
        await _tend(end, endpoint, (place, real_path), watch, stop, tasks)
    if watch is not None:
        await watch.sweep_own()


async def _tend(
    end: End,
    endpoint: Endpoint,
    places: tuple[str, str],
    watch: Watch | None,
    stop: Stop,
    tasks: trio.Nursery,
) -> None:
    """Run what an end needs while it serves, until it is asked to end.

    places: where the tunnel is: for people, and its real path. tasks: for what goes on when
    the tunnel does not.
    """
    async with trio.open_nursery() as nursery:
        command = hints.doctor_line(end.tunnel.spelling)
        hint = functools.partial(end.journal.hint, seconds=HINT_AFTER, command=command)
        looks = places[0], HINT_AFTER, endpoint.find_dialler
        nursery.start_soon(remind, endpoint.sessions, hint, *looks)
        nursery.start_soon(end.journal.tell_rest)
        nursery.start_soon(give_back_when_quiet, lambda: endpoint.sessions.carried)
        control = Control(endpoint, places[1])
        try:
            await nursery.start(control.run)
        except (Unsafe, OSError) as error:
            end.output.say(f"  no control socket for muxfs stdio and forward: {error}")
        if end.persist:
            nursery.start_soon(_end_when_idle, end, stop, control)
        if end.child is not None:
            await _start_child(end, end.child, stop, tasks)
        if watch is not None:
            nursery.start_soon(_end_with_job, watch, stop)
            nursery.start_soon(watch.sweep, end.tunnel.path)
        await stop.requested.wait()
        nursery.cancel_scope.cancel()


async def _start_child(end: End, child: Child, stop: Stop, tasks: trio.Nursery) -> None:
    """Start the command. Its tasks go on when the tunnel does not."""
    if stop.requested.is_set():
        return  # a signal that came before there was a command to get it
    try:
        await child.start(end.tunnel.path)
    except Failure as failure:
        end.output.complain(str(failure))
        stop.end(str(failure), failure.exit_code)
        return
    waiting = trio.CancelScope()

    async def run() -> None:
        code = await child.wait()
        waiting.cancel()
        await trio.lowlevel.checkpoint()
        stop.end(f"the command ended with {code}", code)

    tasks.start_soon(run)
    tasks.start_soon(_tell_when_ready, end, child, waiting)


async def _tell_when_ready(end: End, child: Child, waiting: trio.CancelScope) -> None:
    """Tell of each target on this host when somebody listens there."""
    journal, start = end.journal, trio.current_time()

    async def tell(target: AnyTarget) -> None:
        told = False
        try:
            owner = await readiness.wait_listening(target)
            told = True
            journal.answers(target, trio.current_time() - start, owner)
        finally:
            if not told:
                journal.never_answered(target)

    with waiting:
        async with trio.open_nursery() as nursery:
            for target in filter(readiness.is_local, child.targets):
                nursery.start_soon(tell, target)


async def _end_when_idle(end: End, stop: Stop, control: Control) -> None:
    await control.leave_when_idle(end.persist)
    end.output.say(f"  no connections for {span(end.persist)}")
    stop.requested.set()


async def _end_with_job(watch: Watch, stop: Stop) -> None:
    over = await watch.until_ended()
    stop.end(str(over), over.exit_code)


async def _end_with_step(end: End, stop: Stop) -> None:
    """End when the job that this process is in has ended, and it was left behind."""
    reason = await jobs.step_over(end.job)
    end.output.say(f"  {reason}")
    if end.child is None or not end.child.deliver(signal.SIGTERM):
        stop.end(reason, 0)


def _prepare(end: End) -> tuple[str, str]:
    """Return where the tunnel is: for people, and its real path."""
    path = end.tunnel.path
    tunnel.prepare(end.tunnel, insecure=end.insecure)
    return f"{path} on {find_filesystem(path).describe()}", os.path.realpath(path)


async def _take_ports(endpoint: Endpoint, end: End) -> None:
    """Open the ports as soon as the process that was taken over leaves them."""
    for forward in end.forwards:
        with trio.move_on_after(TAKEOVER_PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    await endpoint.add_forward(forward)
                    break
                await trio.sleep(TAKEOVER_LOOK)
            continue
        await _open_port(endpoint, forward, end)


async def _open_port(endpoint: Endpoint, forward: Forward, end: End) -> None:
    try:
        await endpoint.add_forward(forward)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            if rival := await endpoint.find_rival():
                raise rival from error  # it has the port, most probably
            place = forward.place
            if end.job is not None and isinstance(place, Port) and place.number:
                free = attrs.evolve(forward, place=attrs.evolve(place, number=0))
                await _open_port(endpoint, free, end)
                tell_instead(end, endpoint.forwards, place.number, free)
                return
        raise forwarding.explain(forward, error) from error
