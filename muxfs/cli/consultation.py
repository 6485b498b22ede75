"""The life of a `muxfs doctor`: its thread, its progress, its end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import attrs
import trio

from muxfs.blocking import in_thread
from muxfs.cli import hints, tunnel
from muxfs.cli.diagnosis import finding_lines, report_lines
from muxfs.cli.failures import NO_INPUT, OK, UNAVAILABLE, Failure, exit_code_of
from muxfs.cli.layout import Paper
from muxfs.cli.output import LiveLine
from muxfs.cli.patience import Unanswered
from muxfs.cli.settings import capacity
from muxfs.cli.signals import Stop
from muxfs.cli.tunnel import Tunnel
from muxfs.config import SessionConfig
from muxfs.core.wire import RING_OFFSET
from muxfs.doctor import host, pair
from muxfs.doctor.channel import Vanished
from muxfs.doctor.findings import Finding, Verdict, worst
from muxfs.doctor.judges import judge_directory
from muxfs.doctor.meeting import NobodyCame, meet
from muxfs.doctor.pair import Host, Plan
from muxfs.doctor.patience import Halted, Patience
from muxfs.doctor.probes import ProbeDirectory
from muxfs.storage.filesystem import Filesystem, find_filesystem
from muxfs.units import span

FORMAT: Final = 1
PROBLEM: Final = 1
"""Exit code: muxfs cannot work there."""
STILL: Final = 30.0
"""Seconds that one call to the filesystem may take until its server counts as dead."""
CLEANING: Final = 5.0
"""Seconds that the thread has to clean up after a signal."""


@attrs.define
class Consultation:
    """One run of the doctor. `work` runs in a thread."""

    tunnel: Tunnel
    plan: Plan
    peer: bool
    wait: float
    insecure: bool
    json: bool
    patience: Patience = attrs.field(factory=Patience)
    paper: Paper = attrs.field(factory=Paper.of)
    _line: LiveLine = attrs.field(factory=lambda: LiveLine(sys.stderr))
    _findings: list[Finding] = attrs.field(factory=list)
    _made: list[str] = attrs.field(factory=list)
    _remarks: set[str] = attrs.field(factory=set)

    def work(self) -> int:
        """Examine, print, clean up; return the exit code. Raises Failure, Halted."""
        path = self.tunnel.path
        try:
            try:
                return self._examine(path)
            except OSError as error:
                raise _failed(path, error) from error
        finally:
            self._line.end()
            for step in reversed(self._made):
                with contextlib.suppress(OSError):
                    os.rmdir(step)

    def _examine(self, path: str) -> int:
        self._say([path])
        if not self._enter():
            return self._conclude(None)
        filesystem = find_filesystem(path)
        for finding in host.survey(path, filesystem, self.plan.ring):
            self._tell(finding)
        if not self.peer:
            self._line.show("  writing and reading")
            for finding in host.examine(path, filesystem, self.plan.ring, self.patience):
                self._tell(finding)
            return self._conclude(None)
        if worst(self._findings) is Verdict.PROBLEM:
            return self._conclude(None)
        return self._conclude(self._examine_together(path, filesystem))

    def _examine_together(self, path: str, filesystem: Filesystem) -> dict[str, Any]:
        here = Host.here(path, filesystem)
        probes = ProbeDirectory(path, self.patience)
        try:
            meeting = meet(probes, self.patience, self.wait, self._wait, made=path in self._made)
            if meeting.peer_made:
                self._made = self._made or [path]
            return pair.examine_together(
                meeting, probes, filesystem, here, self.plan, self.patience, self._progress
            )
        except NobodyCame as nobody:
            raise Failure(self._alone(busy=nobody.busy), UNAVAILABLE) from None
        except Vanished as error:
            raise Failure(f"{error}; run it again on both hosts", UNAVAILABLE) from None
        finally:
            probes.clean_up()

    def _enter(self) -> bool:
        """Make or check the directory, as `listen` would; return whether to look at it closer."""
        try:
            self._made = tunnel.enter(self.tunnel, insecure=self.insecure)
        except Failure as failure:
            if failure.exit_code == NO_INPUT:
                raise
            self._tell(Finding("directory", Verdict.PROBLEM, str(failure)))
            return os.path.isdir(self.tunnel.path)
        found = os.stat(self.tunnel.path)
        self._tell(judge_directory(found.st_mode, found.st_uid, made=bool(self._made)))
        return True

    def _conclude(self, report: dict[str, Any] | None) -> int:
        self._line.end()
        verdict = worst(self._findings)
        if report is not None:
            verdicts = [verdict, Verdict(report["recommendation"]["verdict"])]
            verdict = max(verdicts, key=list(Verdict).index)
        if self.json:
            print(json.dumps(self._facts(verdict, report)), flush=True)
        elif report is not None:
            self._say(["", *report_lines(report, self.paper)])
        elif verdict is Verdict.PROBLEM:
            self._say([self.paper.paint("muxfs cannot work there", "red")])
        else:
            other = hints.doctor_line(self.tunnel.spelling)
            self._say(
                [
                    "muxfs can work there. Whether another host sees what this one writes, two "
                    "doctors find out;",
                    f"run on both:   {other}",
                ]
            )
        return PROBLEM if verdict is Verdict.PROBLEM else OK

    def _facts(self, verdict: Verdict, report: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "path": self.tunnel.path,
            "verdict": verdict.value,
            "findings": [
                {**attrs.asdict(finding), "verdict": finding.verdict.value}
                for finding in self._findings
            ],
            "pair": report,
        }

    def _tell(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._line.end()
        self._say(finding_lines(finding, self.paper))

    def _say(self, lines: Iterable[str]) -> None:
        if not self.json:
            for line in lines:
                print(line, flush=True)

    def _wait(self) -> None:
        command = hints.doctor_line(self.tunnel.spelling)
        self._remark(f"  waiting for the other host; run there:   {command}")

    def _progress(self, step: str, done: float) -> None:
        self._remark(
            f"  the other doctor is there; measuring takes about {span(self.plan.seconds)}"
        )
        bar = self.paper.bar(round(done * 100), 100, 30).ljust(30)
        self._line.show(f"  [{bar}] {step}")

    def _remark(self, words: str) -> None:
        """Say something once that is no result."""
        if words not in self._remarks:
            self._remarks.add(words)
            print(words, file=sys.stderr, flush=True)

    def _alone(self, *, busy: bool) -> str:
        path = self.tunnel.path
        if busy:
            return f"two other doctors are at work in {path}; try again when they have ended"
        return (
            f"no other doctor came to {path} within {span(self.wait)}. Is it the same directory "
            "of the same file server on both hosts? Two local directories of one name are a "
            "common mistake"
        )


def run(args: argparse.Namespace) -> int:
    """Run the doctor. Raises Failure."""
    ring = SessionConfig().capacity if args.ring is None else capacity(args.ring)
    plan = Plan(seconds=args.time, ring=RING_OFFSET + ring)
    consultation = Consultation(
        tunnel=tunnel.resolve(args.tunnel),
        plan=plan,
        peer=args.peer,
        wait=args.wait,
        insecure=args.insecure_dir,
        json=args.json,
    )
    return trio.run(_run, consultation)


async def _run(consultation: Consultation) -> int:
    stop = Stop()
    stop.serving.set()
    code: int | None = None
    failure: Failure | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.watch)
        nursery.start_soon(_end_on_signal, consultation, stop, nursery.cancel_scope)
        nursery.start_soon(_end_when_still, consultation, nursery.cancel_scope)
        try:
            code = await in_thread(consultation.work)
        except Failure as error:
            failure = error
        except OSError as error:  # no thread: out of the nursery it would come as a group
            failure = _failed(consultation.tunnel.path, error)
        except Halted:
            pass
        nursery.cancel_scope.cancel()
    if stop.number:
        return stop.exit_code
    if failure is not None:
        raise failure
    if code is None:
        raise Unanswered(consultation.tunnel.path)
    return code


def _failed(path: str, error: OSError) -> Failure:
    words = f"cannot examine {error.filename or path}: {error.strerror or error}"
    return Failure(words, exit_code_of(error))


async def _end_on_signal(
    consultation: Consultation, stop: Stop, everything: trio.CancelScope
) -> None:
    await stop.requested.wait()
    consultation.patience.halt()
    await trio.sleep(CLEANING)
    everything.cancel()


async def _end_when_still(consultation: Consultation, everything: trio.CancelScope) -> None:
    while True:
        left = STILL - consultation.patience.still_for
        if left <= 0:
            break
        await trio.sleep(left)
    everything.cancel()
