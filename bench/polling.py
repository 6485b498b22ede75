"""Policies of polling on recorded traffic: what each costs the file server, and how late it is.

Whole sessions, as they are, on a simulated file server in simulated time: only the policy
differs. The shapes in bench/traces were recorded by `bench.record` from real programs. Each
message is sent as long after the one before as it was recorded: an answer after its question
has arrived, so that what a policy makes late delays all that follows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio
from trio.testing import MockClock

import muxfs
from bench.record import Message, load
from bench.works import percentile
from muxfs.core.polling import Pause, PollPolicy
from muxfs.testing import MemoryFilesystem

TRACES: Final = Path(__file__).parent / "traces"
LATENCY: Final = 0.001
"""Seconds that an operation of the file server takes."""
BANDWIDTH: Final = 200e6
SMALL: Final = 64 << 10
"""Bytes up to which a message counts as one that somebody waits for."""


class Steady(PollPolicy):
    """A look every so many seconds (`maximum`), whatever happens."""

    def wait(self, quiet: float, least: float = 0.0) -> Pause:
        """No waiting within reads."""
        return Pause(0.0)

    def pause(
        self,
        quiet: float,
        immediate: bool,
        least: float = 0.0,
        chance: float = 0.5,
        expected: bool = False,
    ) -> Pause:
        """Return always the same."""
        return Pause(max(least, self.maximum))


POLICIES: Final[Mapping[str, PollPolicy]] = {
    "every 1 ms": Steady(maximum=0.001),
    "every 10 ms": Steady(maximum=0.01),
    "every 50 ms": Steady(maximum=0.05),
    "every 1 s": Steady(maximum=1.0),
    "default": PollPolicy(),
}


@attrs.frozen
class Outcome:
    """What a policy gave on a shape."""

    p50: float
    p99: float
    """Seconds from the sending of a small message to its arrival."""
    operations: float
    """A second, of the busier side."""
    longer: float
    """Seconds that the whole took longer than was recorded."""


@attrs.define(eq=False)
class Replay:
    """One shape on one pair of sessions."""

    messages: Sequence[Message]
    streams: Mapping[str, tuple[muxfs.MuxStream, muxfs.MuxStream]]
    """For each way: where it is sent, where it arrives."""
    late: list[float] = attrs.field(factory=list)

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

    async def _deliver(self, message: Message, earlier: trio.Event, arrived: trio.Event) -> None:
        sender, receiver = self.streams[message.way]
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, bytes(message.size))
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
        trio.open_nursery() as nursery,
    ):
        sides: list[muxfs.MuxStream] = []
        nursery.start_soon(trio.serve_listeners, _keep(sides), [far.listen()])
        here = await near.open_stream()
        while not sides:
            await trio.sleep(0.01)
        (there,) = sides
        replay = Replay(messages, {">": (here, there), "<": (there, here)})
        before = [session.stats().operations for session in (near, far)]
        start = trio.current_time()
        await replay.run()
        elapsed = trio.current_time() - start
        after = [session.stats().operations for session in (near, far)]
        nursery.cancel_scope.cancel()
    most = max(b - a for a, b in zip(before, after, strict=True))
    recorded = sum(message.gap for message in messages)
    p50, p99 = statistics.median(replay.late), percentile(replay.late, 0.99)
    return Outcome(p50, p99, most / elapsed, elapsed - recorded)


def _keep(sides: list[muxfs.MuxStream]) -> Callable[[muxfs.MuxStream], object]:
    async def handle(stream: muxfs.MuxStream) -> None:
        sides.append(stream)
        await trio.sleep_forever()

    return handle


def simulate(policy: PollPolicy, messages: Sequence[Message]) -> Outcome:
    """Replay a shape in simulated time."""
    return trio.run(_simulate, policy, messages, clock=MockClock(autojump_threshold=0))


def shapes() -> dict[str, list[Message]]:
    """Return all recorded shapes."""
    return {path.stem: load(path) for path in sorted(TRACES.glob("*.txt"))}
