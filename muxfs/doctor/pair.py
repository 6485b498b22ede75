"""Two doctors at work: the leader runs the programme, the follower does as it is asked."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs

from muxfs import process
from muxfs._version import __version__
from muxfs.doctor.budget import Budget, most_for
from muxfs.doctor.candidates import reads_beside, writes_beside
from muxfs.doctor.channel import Body, Channel, Vanished
from muxfs.doctor.choice import Recommendation, recommend
from muxfs.doctor.exercises import AUTO, EXERCISES, Echo, Exercise, Lock, Side, Stream, Torn
from muxfs.doctor.locks import Answer
from muxfs.doctor.meeting import Meeting
from muxfs.doctor.patience import OutOfTime, Patience
from muxfs.doctor.probes import ProbeDirectory
from muxfs.doctor.trials import Fault, Trial, failed, judge
from muxfs.storage.access import READS, WRITES, DirectRead, DsyncWrite, ReadAccess, WriteAccess
from muxfs.storage.filesystem import Filesystem, default_access

FORMAT: Final = 1
"""Of the report; raised when a field changes its meaning."""
CONVERSATION: Final = 2
"""Of requests and answers, the report among them; raised when one changes."""
LIMIT: Final = 1.2
"""Seconds: what is not seen by then, a tunnel cannot work with. GlusterFS and sshfs show some
changes after 0.98 s."""
STREAM_LIMIT: Final = 5.0
ANSWER_WITHIN: Final = 60.0
"""Seconds for an answer of a doctor that beats; one that does not is given up much sooner."""
OTHER_VERSION: Final = "the two doctors are of different versions of muxfs"
_ROUNDS_OF_PATIENCE: Final = 6
_LIMIT_SHARE: Final = 4.0
"""Of what a slow greeting makes of the limit, at the most."""
TOTAL: Final = 20.0
"""Seconds of measuring that the shares below are made for."""
_AUTO_SHARE: Final = 2.0
_SHARE: Final = 0.7
_STREAM_SHARE: Final = 1.5
_TORN_SHARE: Final = 1.0
_LOCK_TIME: Final = 1.0
"""Seconds that each side's lock call may take at least."""


Facts: TypeAlias = dict[str, Any]
"""A report for programs; values that JSON knows. See docs/doctor.md."""


@attrs.frozen
class Plan:
    """How much is measured."""

    seconds: float = TOTAL
    ring: int = 16 << 20
    limit: float = LIMIT
    reads: Mapping[str, type[ReadAccess]] = attrs.field(factory=lambda: READS)
    writes: Mapping[str, type[WriteAccess]] = attrs.field(factory=lambda: WRITES)
    most: float = attrs.field()
    """Seconds that it may take if strategies fail."""

    @most.default
    def _most(self) -> float:
        return most_for(self.seconds)

    def share(self, seconds: float) -> float:
        """Scale a share of TOTAL."""
        return seconds * self.seconds / TOTAL


@attrs.frozen
class Host:
    """What a doctor tells of where it runs."""

    name: str
    process: str
    filesystem: str
    type: str
    device: int
    access: str
    """The automatic choice there."""
    software: str

    @classmethod
    def here(cls, path: str, filesystem: Filesystem) -> Host:
        """Describe this host."""
        return cls(
            name=os.uname().nodename,
            process=process.identity(),
            filesystem=filesystem.describe(),
            type=filesystem.type,
            device=os.stat(path).st_dev,
            access=default_access(filesystem).name,
            software=f"muxfs {__version__}",
        )

    @property
    def kernel(self) -> str:
        """What names the running kernel."""
        return self.process.partition("/")[0]


@attrs.frozen
class Report:
    """All that a pair found out. The leader is the first of `hosts`."""

    hosts: tuple[Host, Host]
    limit: float
    """Seconds after which a write counted as not seen."""
    automatic: str
    """The access that both would choose by themselves; `auto` where they differ."""
    trials: tuple[Trial, ...]
    recommendation: Recommendation
    torn: Mapping[str, int] | None
    streams: tuple[float | None, float | None]
    """Bytes a second from the leader to the follower, and back."""
    locks: str
    """`exclusive`: a lock of one host keeps the other one out; `separate`: it does not; or
    what else the lock call answered."""

    @property
    def one_kernel(self) -> bool:
        """Whether both ran over one and the same mount: then nothing is known of other hosts."""
        first, second = self.hosts
        return bool(first.kernel) and (first.kernel, first.device) == (second.kernel, second.device)

    def facts(self) -> Facts:
        """Return it for programs."""
        return {
            "format": FORMAT,
            "hosts": [attrs.asdict(host) for host in self.hosts],
            "one_kernel": self.one_kernel,
            "limit": self.limit,
            "automatic": self.automatic,
            "trials": [trial.facts() for trial in self.trials],
            "torn": self.torn,
            "streams": list(self.streams),
            "locks": self.locks,
            "recommendation": {
                "verdict": self.recommendation.verdict.value,
                "access": self.recommendation.access,
                "words": self.recommendation.words,
            },
        }


class Refused(Exception):
    """An exercise could not be done; str() says why. `late`: there was no time for it."""

    def __init__(self, reason: str, *, late: bool) -> None:
        super().__init__(reason)
        self.late = late


@attrs.define
class Pair:
    """One side of the conversation, from the meeting on."""

    channel: Channel
    side: Side
    plan: Plan
    host: Host
    tell: Callable[[str, float], None]
    """Called with what is being done, and the share of all that is done already."""

    def work(self) -> Facts:
        """Lead or follow until the report is there. Raises Vanished, Halted, OSError."""
        return self._lead() if self.side.leads else self._follow()

    # Following

    def _follow(self) -> Facts:
        with contextlib.ExitStack() as files:
            while True:
                request = self.channel.receive(ANSWER_WITHIN)
                files.close()  # only now: until it had the answer, the leader used the last file
                self.tell(request["step"], request["done"])
                match request["do"]:
                    case "hello" if request.get("format") != CONVERSATION:
                        raise Vanished(OTHER_VERSION)
                    case "hello":
                        self.channel.send({"host": attrs.asdict(self.host)})
                    case "report":
                        self.channel.send({})
                        return dict(request["facts"])
                    case _:
                        self.channel.send(self._take_part(request, files))

    def _take_part(self, request: Body, files: contextlib.ExitStack) -> Body:
        patience = self.side.patience
        end = patience.now() + request["within"]
        exercise = EXERCISES[request["do"]](self.side, request["number"], request["options"])
        files.callback(exercise.close)
        try:
            with patience.until(end):
                exercise.prepare()
            self.channel.send({})
            self.channel.receive(ANSWER_WITHIN)
            with patience.until(end):
                return {"outcome": exercise.run()}
        except OSError as error:
            late = isinstance(error, OutOfTime)
            return {"error": f"{self.host.name}: {error.strerror or error}", "late": late}

    # Leading

    def _lead(self) -> Facts:
        return Programme(self).run()

    def ask(self, body: Body) -> Body:
        """Send a request, and wait for the answer. Raises Refused if it is an error."""
        self.channel.send(body)
        answer = self.channel.receive(ANSWER_WITHIN)
        if "error" in answer:
            raise Refused(answer["error"], late=answer["late"])
        return answer


class Programme:
    """What the leader has both sides do, within `Plan.most` seconds."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._plan = pair.plan
        self._number = 0
        self._steps = 1
        self._done = 0
        self._limit = pair.plan.limit
        self._trials: dict[str, Trial] = {}
        self._budget = Budget(pair.plan.most, pair.side.patience)

    def run(self) -> Facts:
        """Do everything; return the report, which the follower has too."""
        other = self._greet()
        # the greeting, the report, torn views, two streams, locks; one pair would come twice
        ways = len(reads_beside(DirectRead.name, self._plan.reads))
        self._steps = 6 + ways + len(writes_beside(DsyncWrite.name, self._plan.writes)) - 1
        accesses = {self._pair.host.access, other.access}
        auto = accesses.pop() if len(accesses) == 1 else AUTO
        self._try(auto, _AUTO_SHARE)
        self._try_all(auto)
        recommendation = recommend(list(self._trials.values()), auto)
        access = recommendation.access
        chosen = auto if access in {AUTO, None} else str(access)
        usable = recommendation.access is not None
        report = Report(
            hosts=(self._pair.host, other),
            limit=round(self._limit, 3),
            automatic=auto,
            trials=tuple(self._trials.values()),
            recommendation=recommendation,
            torn=self._tear(chosen) if usable else None,
            streams=(
                self._stream(chosen, by_leader=True) if usable else None,
                self._stream(chosen, by_leader=False) if usable else None,
            ),
            locks=self._lock(),
        )
        with contextlib.suppress(Vanished):  # it has the report, and has gone
            self._pair.ask(self._request("report", "done", facts=report.facts()))
        return report.facts()

    def _greet(self) -> Host:
        now = self._pair.side.patience.now
        start = now()
        hello = self._request("hello", "the two doctors meet", format=CONVERSATION)
        answer = self._pair.ask(hello)
        slow = min(_ROUNDS_OF_PATIENCE * (now() - start), self._plan.share(_LIMIT_SHARE))
        self._limit = max(self._limit, slow)
        return Host(**answer["host"])

    def _try_all(self, auto: str) -> None:
        read, _, write = auto.partition("+")
        for name in writes_beside(write or DsyncWrite.name, self._plan.writes):
            self._try(f"{DirectRead.name}+{name}", _SHARE)
        passed = [trial for trial in self._trials.values() if trial.passed]
        good = {trial.names[0].partition("+")[2] for trial in passed}
        # what is chosen there, else the surest of those that passed
        order = [write, DsyncWrite.name, *self._plan.writes]
        best = min(good, key=order.index, default=write or DsyncWrite.name)
        for name in reads_beside(read if write else DirectRead.name, self._plan.reads):
            self._try(f"{name}+{best}", _SHARE)

    def _try(self, access: str, share: float) -> None:
        if access in self._trials:
            return
        self._trials[access] = self._echo(access, share)
        if self._trials[access].doubtful:
            again = self._echo(access, share)
            if again.fault is not Fault.UNTRIED:
                self._trials[access] = again

    def _echo(self, access: str, share: float) -> Trial:
        seconds = self._plan.share(share)
        try:
            own, theirs = self._exercise(
                Echo,
                f"echo by {access}",
                least=seconds + self._limit,
                later=_TORN_SHARE + 2 * _STREAM_SHARE,
                access=access,
                seconds=seconds,
                limit=self._limit,
            )
        except OutOfTime as error:
            return failed(access, str(error.strerror), Fault.UNTRIED)
        except OSError as error:
            return failed(access, f"{self._pair.host.name}: {error.strerror or error}")
        except Refused as error:
            return failed(access, str(error), Fault.UNTRIED if error.late else Fault.FAILED)
        return judge(access, own, theirs)

    def _tear(self, access: str) -> dict[str, int] | None:
        seconds = self._plan.share(_TORN_SHARE)
        try:
            outcomes = self._exercise(
                Torn,
                "torn views",
                least=seconds,
                later=2 * _STREAM_SHARE,
                access=access,
                seconds=seconds,
            )
        except (OSError, Refused):
            return None
        return {name: sum(outcome[name] for outcome in outcomes) for name in outcomes[0]}

    def _stream(self, access: str, *, by_leader: bool) -> float | None:
        step = "stream to the other host" if by_leader else "stream back"
        seconds = self._plan.share(_STREAM_SHARE)
        try:
            outcomes = self._exercise(
                Stream,
                step,
                least=seconds,
                later=_STREAM_SHARE if by_leader else 0.0,
                access=access,
                seconds=seconds,
                limit=max(STREAM_LIMIT, self._limit),
                ring=self._plan.ring,
                by_leader=by_leader,
            )
        except (OSError, Refused):
            return None
        sender = outcomes[0 if by_leader else 1]
        return float(sender["bytes"] / sender["seconds"])

    def _lock(self) -> str:
        try:
            limit = max(_LOCK_TIME, self._budget.left() / 2)
            held, answer = self._exercise(Lock, "locks", limit=limit)
        except (OSError, Refused):
            return Answer.FAILED.value
        if held["answer"] != Answer.GRANTED.value:
            return str(held["answer"])
        words = {Answer.REFUSED.value: "exclusive", Answer.GRANTED.value: "separate"}
        return words.get(answer["answer"], str(answer["answer"]))

    def _exercise(
        self,
        kind: type[Exercise],
        step: str,
        *,
        least: float = -math.inf,
        later: float = 0.0,
        **options: Any,
    ) -> tuple[Body, Body]:
        """Do an exercise together; return both sides' outcomes. Raises OSError, Refused.

        It has the time that is left, but for locks and the shares of what comes `later`.
        OutOfTime: it came to no end then, or that is less than `least` seconds.
        """
        reserved = self._plan.share(later) + 2 * _LOCK_TIME if kind is not Lock else 0.0
        within = self._budget.take(least, reserved)
        patience = self._pair.side.patience
        end = patience.now() + within
        self._number += 1
        request = self._request(kind.kind, step, number=self._number, options=options)
        exercise = kind(self._pair.side, self._number, options)
        try:
            with patience.until(end):
                exercise.prepare()
            # the follower counts from when it is asked: not what was spent until then as well
            self._pair.ask({**request, "within": end - patience.now()})
            self._pair.channel.send({})
            try:
                with patience.until(end):
                    own = exercise.run()
            finally:
                answer = self._pair.channel.receive(ANSWER_WITHIN)
        finally:
            exercise.close()
        if "error" in answer:
            raise Refused(answer["error"], late=answer["late"])
        return own, answer["outcome"]

    def _request(self, do: str, step: str, **more: object) -> Body:
        done = min(1.0, self._done / self._steps)
        self._done += 1
        self._pair.tell(step, done)
        return {"do": do, "step": step, "done": done, **more}


def examine_together(
    meeting: Meeting,
    probes: ProbeDirectory,
    filesystem: Filesystem,
    host: Host,
    plan: Plan,
    patience: Patience,
    tell: Callable[[str, float], None],
) -> Facts:
    """Do this side's part with the doctor that was met. Raises Vanished, Halted, OSError."""
    channel = Channel(meeting, probes.nonce, patience)
    side = Side(
        leads=meeting.leads,
        probes=probes,
        peer_nonce=meeting.peer_nonce,
        filesystem=filesystem,
        patience=patience,
        reads=plan.reads,
        writes=plan.writes,
    )
    pair = Pair(channel, side, plan, host, tell)
    reason: str | None = "it was interrupted"
    try:
        probes.sweep(meeting.slot.probe)
        facts = pair.work()
        reason = None
    except Vanished as error:
        reason = str(error)
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise
    finally:
        channel.close(reason)
    return facts
