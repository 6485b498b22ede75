"""The life of a `muxfs bench`: how two of them meet, a session between them, what is printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, ParamSpec, TypeVar

import attrs
import trio

from muxfs import workload
from muxfs.blocking import in_thread, open_process
from muxfs.cli import hints, settings, tunnel
from muxfs.cli.failures import OK, UNAVAILABLE, Failure, exit_code_of
from muxfs.cli.heap import keep_freed_memory, spare_the_collector
from muxfs.cli.layout import columns
from muxfs.cli.output import LiveLine
from muxfs.cli.patience import STILL, Unanswered
from muxfs.cli.signals import Stop
from muxfs.cli.tunnel import Tunnel
from muxfs.config import SessionConfig
from muxfs.doctor.meeting import Meeting, NobodyCame, meet
from muxfs.doctor.patience import Halted, Patience
from muxfs.doctor.probes import ProbeDirectory
from muxfs.errors import MuxfsError, StreamRefused, printable
from muxfs.info import Lost
from muxfs.session import Session, open_session
from muxfs.storage.filesystem import Filesystem, find_filesystem
from muxfs.stream import MuxStream
from muxfs.units import amount, span
from muxfs.workload import SINK, SOURCE

FORMAT: Final = 1
"""Of the result; raised when a field changes its meaning."""
DIRECTORY: Final = "bench"
REPORT: Final = "report"
"""Target of the stream on which the result goes to the other one."""
FORMING: Final = 60.0
"""Seconds in which the session is to stand, once two have met."""

ENDING: Final = 10.0
"""Seconds that the partner on this host, and cleaning up, may take."""
PATIENCE: Final = 20.0
"""Seconds of silence after which the other one counts as gone."""
WORKS: Final = 5
"""Each takes an equal share of the time."""

Facts = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


@attrs.frozen
class Measurement:
    """One run, as it was asked for."""

    args: argparse.Namespace
    tunnel: Tunnel
    config: SessionConfig
    patience: Patience = attrs.field(factory=Patience)
    line: LiveLine = attrs.field(factory=lambda: LiveLine(sys.stderr))

    @property
    def place(self) -> str:
        """The directory of all that is made here."""
        return os.path.join(self.tunnel.path, DIRECTORY)

    def say(self, words: str) -> None:
        """Tell people what happens."""
        print(words, file=sys.stderr, flush=True)

    def partner(self) -> list[str]:
        """Return the command line of the other end on this host."""
        args = self.args
        words = [sys.executable, "-m", "muxfs", "bench", self.tunnel.path, "--peer", "--json"]
        words += [f"--ring={self.config.capacity}"]
        words += [f"--poll={self.config.poll.minimum}s:{self.config.poll.maximum}s"]
        words += [f"--access={args.access}"] if args.access else []
        words += [f"--key-file={args.key_file}"] if args.key_file else []
        return [*words, *(["--insecure-dir"] if args.insecure_dir else [])]


def run(args: argparse.Namespace) -> int:
    """Measure; return the exit code. Raises Failure."""
    args.peer_timeout, args.max_ops = PATIENCE, None
    args.takeover, args.label = False, ""
    config = settings.session_config(args, limit=STILL)
    measurement = Measurement(args, tunnel.resolve(args.tunnel), config)
    keep_freed_memory()
    spare_the_collector()
    return trio.run(_run, measurement)


async def _run(measurement: Measurement) -> int:
    stop, failure = Stop(), None
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.watch)
        with stop.scope:
            try:
                await _meet_and_measure(measurement)
            except (Failure, Halted, MuxfsError, OSError) as error:
                failure = error
        nursery.cancel_scope.cancel()
    measurement.line.end()
    if stop.number:
        return stop.exit_code
    match failure:
        case None:
            return OK
        case OSError():
            words = f"cannot measure in {measurement.place}: {failure.strerror or failure}"
            raise Failure(words, exit_code_of(failure)) from failure
        case MuxfsError():
            raise Failure(str(failure), failure.exit_code) from failure
    raise failure


async def _meet_and_measure(measurement: Measurement) -> None:
    """Do it all. Raises Failure, Halted, MuxfsError, OSError."""
    async with _partner(measurement), _met(measurement) as (meeting, directory):
        role: Literal["listen", "dial"] = "listen" if meeting.leads else "dial"
        async with open_session(directory, role=role, config=measurement.config) as session:
            facts = await _measure_with(measurement, session, leads=meeting.leads)
    measurement.line.end()
    _print(facts, json_only=measurement.args.json)


@asynccontextmanager
async def _partner(measurement: Measurement) -> AsyncIterator[None]:
    """Run the other end on this host, unless one on another host is to come."""
    if measurement.args.peer:
        yield
        return
    argv = measurement.partner()
    process = await open_process(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(ENDING):
                await process.wait()  # it has got the result, and cleans up as this one does
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def _met(measurement: Measurement) -> AsyncIterator[tuple[Meeting, str]]:
    """Meet the other one; give the directory of the session, which is removed at the end."""
    made = await _begin(measurement, _enter, measurement)
    directory, probes = "", None
    try:
        probes = await _begin(measurement, ProbeDirectory, measurement.place, measurement.patience)
        meeting = await in_thread(_meet, measurement, probes, bool(made))
        if meeting.peer_made and not made:
            made = [measurement.tunnel.path]  # whoever ends last removes it
        name = probes.nonce if meeting.leads else meeting.peer_nonce
        directory = os.path.join(measurement.place, name)
        await _begin(measurement, _make, measurement, directory)
        yield meeting, directory
    finally:
        measurement.patience.halt()
        with trio.move_on_after(ENDING, shield=True):
            await in_thread(_clean_up, probes, directory, [*made, measurement.place])


async def _begin(
    measurement: Measurement, call: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> T:
    """Call in a thread what a file server that hangs keeps from beginning. Raises Unanswered."""
    with trio.move_on_after(STILL):
        return await in_thread(call, *arguments, **options)
    raise Unanswered(measurement.tunnel.path)


def _enter(measurement: Measurement) -> list[str]:
    insecure = measurement.args.insecure_dir
    made = tunnel.enter(measurement.tunnel, insecure=insecure)
    _make(measurement, measurement.place)
    return made


def _make(measurement: Measurement, directory: str) -> None:
    tunnel.prepare_directory(directory, insecure=measurement.args.insecure_dir)


def _meet(measurement: Measurement, probes: ProbeDirectory, made: bool) -> Meeting:
    args, path = measurement.args, measurement.tunnel.path
    told: list[str] = []

    def waiting() -> None:
        if args.peer and not told:
            told.append(hints.bench_line(measurement.tunnel.spelling))
            measurement.say(f"  waiting for the other host; run there:   {told[0]}")

    try:
        wait = args.wait if args.peer else FORMING
        return meet(probes, measurement.patience, wait, waiting, made=made)
    except NobodyCame as nobody:
        if nobody.busy:
            words = f"two others measure in {path}; try again when they have ended"
        else:
            words = (
                f"no other muxfs bench came to {path}. Is it the same directory of the same file "
                f"server on both hosts? {hints.doctor_line(measurement.tunnel.spelling)} tells"
            )
        raise Failure(words, UNAVAILABLE) from None


def _clean_up(probes: ProbeDirectory | None, directory: str, made: Sequence[str]) -> None:
    """Remove what this one made, as far as the other one needs it no more."""
    if probes is not None:
        probes.clean_up()
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    for path in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(path)


async def _measure_with(measurement: Measurement, session: Session, *, leads: bool) -> Facts:
    """Measure, or let the other one do so; return the result. Raises Failure, OSError."""
    facts: list[Facts] = []
    changes = session.changes()
    with trio.move_on_after(FORMING):
        await session.wait_established()
    if not session.established:
        words = "the other one was there, but no session formed: muxfs doctor --peer tells why"
        raise Failure(words, UNAVAILABLE)
    filesystem = await in_thread(find_filesystem, measurement.tunnel.path)
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            async for change in changes:
                if isinstance(change, Lost):
                    nursery.cancel_scope.cancel()

        async def handle(stream: MuxStream) -> None:
            if stream.target != REPORT:
                await workload.serve_one(stream)
                return
            facts.append(json.loads(b"".join([piece async for piece in stream])))
            await stream.aclose()

        nursery.start_soon(watch)
        if leads:
            if measurement.args.peer:
                seconds = span(measurement.args.time)
                measurement.say(f"  the other one is there; measuring takes about {seconds}")
            with contextlib.suppress(trio.BrokenResourceError, StreamRefused):
                found = await _programme(measurement, session, filesystem)
                await _hand_over(session, found)
                facts.append(found)
            nursery.cancel_scope.cancel()
        else:
            if measurement.args.peer:
                measurement.say("  the other one is there, and measures")
            nursery.start_soon(trio.serve_listeners, handle, [session.listen()])
    if not facts:
        raise Failure("the other one vanished; run it again on both hosts", UNAVAILABLE)
    return facts[0]


async def _hand_over(session: Session, facts: Facts) -> None:
    stream = await session.open_stream(REPORT)
    await stream.send_all(json.dumps(facts).encode())
    await stream.send_eof()
    await stream.receive_some()  # until it is there


async def _programme(measurement: Measurement, session: Session, filesystem: Filesystem) -> Facts:
    """Do all works; return what comes of them. Seconds, and bytes a second."""
    share = measurement.args.time / WORKS
    config = measurement.config
    here, there = socket.gethostname(), (await session.wait_established()).host
    show = measurement.line.show
    show("  round trips")
    echo = await workload.echoes(session, share)
    show("  short streams")
    short = await workload.short_streams(session, share)
    show("  bulk")
    rates = [await workload.rate(session, target, share) for target in (SINK, SOURCE)]
    show("  round trips beside bulk")
    async with workload.bulk(session, SINK):
        beside = await workload.echoes(session, share)
    return {
        "format": FORMAT,
        "path": measurement.tunnel.path,
        "filesystem": filesystem.describe(),
        "hosts": [here, there],
        "one_host": here == there,
        "access": session.stats().access,
        "sealed": config.key is not None,
        "ring": config.capacity,
        "echo": attrs.asdict(echo),
        "echo_beside_bulk": attrs.asdict(beside),
        "short_streams": attrs.asdict(short),
        "rates": rates,
    }


def _print(facts: Facts, *, json_only: bool) -> None:
    if json_only:
        print(json.dumps(facts), flush=True)
        return
    first, second = (printable(host) for host in facts["hosts"])
    there, back = (f"{amount(rate)}/s" for rate in facts["rates"])
    sealed = ", encrypted" if facts["sealed"] else ""
    rows = [
        ["filesystem", printable(facts["filesystem"])],
        ["access", f"{printable(facts['access'])}{sealed}"],
        ["echo of 1 byte", _times(facts["echo"])],
        ["beside bulk", _times(facts["echo_beside_bulk"])],
        ["new stream", _times(facts["short_streams"])],
    ]
    if facts["one_host"]:
        rows += [["bulk", f"{there}, and back {back}"]]
    else:
        rows += [["bulk", f"{first} to {second} {there}, back {back}"]]
    for line in columns([["", *row] for row in rows]):
        print(line)
    if facts["one_host"]:
        print(
            "Both ends ran on one host: what another host's caches add is not in these figures. "
            "With --peer, run it on both hosts."
        )


def _times(times: Facts) -> str:
    each = f"{times['operations']:.2g} operations of a side each"
    words = [
        f"p50 {span(times['p50'])}",
        f"p99 {span(times['p99'])}",
        f"at most {span(times['most'])}",
    ]
    return f"{', '.join(words)} ({times['count']}; {each})"
