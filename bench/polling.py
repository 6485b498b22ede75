"""Policies of polling on recorded traffic: what each costs the file server, and how late it is.

Whole sessions, as they are, on a simulated file server in simulated time: only the policy
differs. The shapes in bench/traces were recorded by `bench.record` from real programs. Each
message is sent as long after the one before as it was recorded: an answer after its question
has arrived, so that what a policy makes late delays all that follows.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio
from trio.testing import MockClock

import muxfs
from bench.record import Message, load
from bench.report import Points
from bench.simulations import run_all
from bench.sizes import Sizes
from muxfs.core.polling import Pause, PollPolicy
from muxfs.testing import MemoryFilesystem

TRACES: Final = Path(__file__).parent / "traces"
LATENCY: Final = 0.001
"""Seconds that an operation of the file server takes."""
BANDWIDTH: Final = 200e6
SMALL: Final = 64 << 10
"""Bytes up to which a message counts as one that somebody waits for."""
AXES: Final = ("operations of the busier side [1/s]", "mean lateness [ms]")


class Steady(PollPolicy):
    """A look every so many seconds (`maximum`), whatever happens."""

    def wait(self, quiet: float, least: float = 0.0) -> Pause:  # noqa: ARG002
        """No waiting within reads."""
        return Pause(0.0)

    def pause(
        self,
        quiet: float,  # noqa: ARG002
        immediate: bool,  # noqa: ARG002
        least: float = 0.0,
        chance: float = 0.5,  # noqa: ARG002
    ) -> Pause:
        """Return always the same."""
        return Pause(max(least, self.maximum))


@attrs.frozen
class Fraction(PollPolicy):
    """A fixed fraction of the quiet time."""

    fraction: float = 1 / 8

    def share(self, quiet: float) -> float:  # noqa: ARG002
        """Return the fraction after so many seconds."""
        return self.fraction

    def pause(
        self,
        quiet: float,
        immediate: bool,  # noqa: ARG002
        least: float = 0.0,
        chance: float = 0.5,  # noqa: ARG002
    ) -> Pause:
        """Return that fraction, within the limits."""
        seconds = quiet * self.share(quiet)
        return Pause(max(least, self.minimum, min(self.maximum, seconds)))


@attrs.define
class _Gap:
    """The usual gap between messages: mean and deviation, as of round trips in RFC 6298."""

    mean: float = 0.0
    deviation: float = 0.0
    quiet: float = 0.0

    def look(self, quiet: float) -> None:
        """Take note of the quiet time at a poll: where it falls, there was news."""
        if quiet < self.quiet and self.quiet > SHORTEST_GAP:
            self.deviation += (abs(self.mean - self.quiet) - self.deviation) / 4
            self.mean += (self.quiet - self.mean) / 8
        self.quiet = quiet


@attrs.frozen
class Learned(Fraction):
    """Hot as long as the next message is due by the gap of those before, cold after that."""

    gap: _Gap = attrs.field(factory=_Gap)

    def share(self, quiet: float) -> float:
        """Return the fraction after so many seconds."""
        self.gap.look(quiet)
        return 1 / 16 if quiet <= self.gap.mean + 4 * self.gap.deviation else 1 / 4


SHORTEST_GAP: Final = 0.01
"""Seconds: what is shorter are acknowledgements and answers of machines."""

# New ones for each run: one of them remembers.
POLICIES: Final[Mapping[str, Callable[[], PollPolicy]]] = {
    "every 10 ms": lambda: Steady(maximum=0.01),
    "every 50 ms": lambda: Steady(maximum=0.05),
    "every 1 s": lambda: Steady(maximum=1.0),
    "1/4 of the quiet time": lambda: Fraction(fraction=1 / 4),
    "1/8": Fraction,
    "1/16": lambda: Fraction(fraction=1 / 16),
    "learned gap": Learned,
    "default": PollPolicy,
    "default, --poll 1ms:5s": lambda: PollPolicy(0.001, 5.0),
}


@attrs.frozen
class Outcome:
    """What a policy gave on a shape."""

    late: float
    """Mean of the seconds from the sending of a small message to its arrival."""
    operations: float
    """A second, of the busier side."""


@attrs.define(eq=False)
class Replay:
    """One shape on one pair of sessions."""

    messages: Sequence[Message]
    streams: Mapping[str, tuple[muxfs.MuxStream, muxfs.MuxStream]]
    """For each way: where it is sent, where it arrives."""
    late: list[float] = attrs.field(factory=list)
    _locks: Mapping[str, trio.Lock] = attrs.field(factory=lambda: defaultdict(trio.Lock))

    async def run(self) -> None:
        """Send all messages; return once the last has arrived."""
        last = {way: trio.Event() for way in self.streams}
        for event in last.values():
            event.set()
        async with trio.open_nursery() as nursery:
            before = ""
            for message in self.messages:
                if before not in {"", message.way}:
                    await last[before].wait()  # an answer is to what has arrived
                await trio.sleep(message.gap)
                arrived = trio.Event()
                nursery.start_soon(self._deliver, message, last[message.way], arrived)
                last[message.way], before = arrived, message.way

    async def _send(self, sender: muxfs.MuxStream, message: Message) -> None:
        async with self._locks[message.way]:
            await sender.send_all(bytes(message.size))

    async def _deliver(self, message: Message, earlier: trio.Event, arrived: trio.Event) -> None:
        sender, receiver = self.streams[message.way]
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, sender, message)
            await earlier.wait()
            left = message.size
            while left:
                left -= len(await receiver.receive_some(left))
        if message.size <= SMALL:
            self.late.append(trio.current_time() - start)
        arrived.set()


async def _simulate(policy: PollPolicy, messages: Sequence[Message]) -> Outcome:
    fs = MemoryFilesystem(latency=LATENCY, bandwidth=BANDWIDTH)
    config = muxfs.SessionConfig(poll=policy)
    async with (
        muxfs.open_session("", role="listen", storage=fs.storage("l", "d"), config=config) as near,
        muxfs.open_session("", role="dial", storage=fs.storage("d", "l"), config=config) as far,
        far.listen() as listener,
    ):
        await near.wait_established()
        here, there = near.start_stream(), await listener.accept()
        replay = Replay(messages, {">": (here, there), "<": (there, here)})
        before = [session.stats().operations for session in (near, far)]
        start = trio.current_time()
        await replay.run()
        elapsed = trio.current_time() - start
        after = [session.stats().operations for session in (near, far)]
    most = max(b - a for a, b in zip(before, after, strict=True))
    return Outcome(statistics.fmean(replay.late), most / elapsed)


@attrs.frozen
class Job:
    """One replay."""

    shape: str
    policy: str
    most: int
    """Messages."""

    def __str__(self) -> str:
        return f"{self.shape}, {self.policy}"


def simulate(job: Job) -> Outcome:
    """Replay a shape in simulated time."""
    messages = load(TRACES / f"{job.shape}.txt")[: job.most]
    clock = MockClock(autojump_threshold=0)
    return trio.run(_simulate, POLICIES[job.policy](), messages, clock=clock)


def points(sizes: Sizes, progress: Callable[[str], None]) -> list[Points]:
    """Replay all shapes with all policies; medians of some runs, since polls are at random."""
    shapes = sorted(path.stem for path in TRACES.glob("*.txt"))
    jobs = [Job(*pair, sizes.messages_replayed) for pair in itertools.product(shapes, POLICIES)]
    outcomes = run_all(simulate, jobs * sizes.replays, progress)
    drawn = {shape: Points(shape.replace("-", " "), *AXES) for shape in shapes}
    for number, job in enumerate(jobs):
        runs = outcomes[number :: len(jobs)]
        late = statistics.median(run.late for run in runs)
        operations = statistics.median(run.operations for run in runs)
        drawn[job.shape].at[job.policy] = (operations, late * 1000)
    return list(drawn.values())
