"""How the cost grows: with open streams, with the size of messages, of the ring and of batches."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import attrs

from bench import crowds, endpoints, peers, usage, works
from bench.comparison import FAILURES
from bench.peers import Peer, Running, service
from bench.report import Curves
from bench.sizes import Sizes
from muxfs.units import amount

ECHOES = 200
MESSAGE_ROUNDS = 20
OTHERS: Mapping[str, Peer] = {"tcp": peers.direct, "ssh -L": peers.ssh("ssh -L")}

Make = Callable[..., Peer]
"""Makes a peer of muxfs: its name, further options, what Python runs."""
Crowd = tuple[float | None, float | None, float | None]
"""Echo (us), one of each stream (ms), memory (MiB)."""


@attrs.define(eq=False)
class Growth:
    """One run."""

    sizes: Sizes
    progress: Callable[[str], None]
    troubles: list[str] = attrs.field(factory=list)

    def run(self, muxfs: Make) -> list[Curves]:
        """Measure all."""
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(service())
            running = []
            for name, peer in {**OTHERS, "muxfs": muxfs("muxfs")}.items():
                with self._told(name):
                    running.append(stack.enter_context(peer(target)))
            return [
                *self._crowds(running),
                self._messages(running),
                *self._rings(target, muxfs),
                *self._batches(target, muxfs),
            ]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self.troubles.append(f"{what}: {error or type(error).__name__}")

    def _crowds(self, running: Sequence[Running]) -> list[Curves]:
        """Have a byte echoed on one of many open streams, then on each at once; weigh."""
        echo = Curves("Echo of 1 byte on one of many open streams", "open streams", "us", [])
        everybody = Curves("1 byte echoed on each stream at once", "open streams", "ms", [])
        memory = Curves("Memory of a side", "open streams", "MiB", [])
        counts = self.sizes.crowds
        for curves in (echo, everybody, memory):
            curves.at = list(map(float, counts))
        for peer in running:
            found: list[Crowd] = [(None, None, None)] * len(counts)
            for number, count in enumerate(counts):
                self.progress(f"{count} streams, {peer.name}")
                with self._told(f"{count} streams, {peer.name}"):
                    found[number] = self._crowd(peer, count)
            echo.series[peer.name] = [figures[0] for figures in found]
            everybody.series[peer.name] = [figures[1] for figures in found]
            if peer.sides:
                memory.series[peer.name] = [figures[2] for figures in found]
        return [echo, everybody, memory]

    def _crowd(self, peer: Running, count: int) -> Crowd:
        with crowds.open_crowd(peer.port, count) as members:
            for member in members[:ECHOES]:
                crowds.round_trip(member)
            echoes = [crowds.round_trip(members[i % count]) for i in range(ECHOES)]
            rounds = []
            for _ in range(self.sizes.rounds):
                start = time.perf_counter()
                for member in members:
                    member.send(b"x")
                for member in members:
                    endpoints.receive_exactly(member, 1)
                rounds.append(time.perf_counter() - start)
            size = usage.memory(peer) if peer.sides else None
        return statistics.median(echoes) * 1e6, statistics.median(rounds) * 1e3, size

    def _messages(self, running: Sequence[Running]) -> Curves:
        curves = Curves("Echo of a message", "bytes", "us", list(map(float, self.sizes.messages)))
        for peer in running:
            curves.series[peer.name] = []
            for size in self.sizes.messages:
                self.progress(f"messages of {amount(size)}, {peer.name}")
                median: float | None = None
                with self._told(f"messages of {amount(size)}, {peer.name}"):
                    median = self._message(peer, size) * 1e6
                curves.series[peer.name].append(median)
        return curves

    def _message(self, peer: Running, size: int) -> float:
        message, times = bytes(size), []
        with endpoints.connect(peer.port) as connection:
            connection.sendall(endpoints.REQUEST.pack(endpoints.ECHO, 0))
            for _ in range(MESSAGE_ROUNDS * self.sizes.rounds):
                start = time.perf_counter()
                connection.sendall(message)
                for _ in endpoints.receive(connection, size):
                    pass
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _rings(self, target: int, muxfs: Make) -> list[Curves]:
        """One stream, and an echo beside one, by the size of the ring."""
        at = [size / 1024 for size in self.sizes.rings]
        bulk = Curves("One stream up, by the ring (--ring)", "KiB", "MB/s", at)
        echo = Curves("Echo under bulk up p50, by the ring", "KiB", "us", at)
        shown = {"one stream up [MB/s]": bulk, "echo under bulk up p50 [us]": echo}

        def work(peer: Running) -> works.Figures:
            return {**works.up(peer, self._stream), **works.loaded_echo("up")(peer, self._stream)}

        for ring in self.sizes.rings:
            peer = muxfs("muxfs", ["--ring", str(ring)])
            self._point(f"ring of {amount(ring)}", peer(target), work, shown)
        return list(shown.values())

    def _batches(self, target: int, muxfs: Make) -> list[Curves]:
        """One stream, and what it costs the ends, by the most that goes at once into the ring."""
        at = [size / 1024 for size in self.sizes.batches]
        bulk = Curves("One stream up, by the size of batches", "KiB", "MB/s", at)
        cost = Curves("Processor time of both ends, by the size of batches", "KiB", "ms/GB", at)
        shown = {"one stream up [MB/s]": bulk, "cost": cost}

        def work(peer: Running) -> works.Figures:
            before = usage.processor_time(peer)
            figures = works.up(peer, self._stream)
            spent = usage.processor_time(peer) - before
            return {**figures, "cost": 1e3 * spent / (self._stream.stream / 1e9)}

        for batch in self.sizes.batches:
            peer = muxfs("muxfs", program=["-m", "bench.batches", str(batch)])
            self._point(f"batches of {amount(batch)}", peer(target), work, shown)
        return list(shown.values())

    @property
    def _stream(self) -> Sizes:
        """The sizes, with a shorter stream: there are many points."""
        return attrs.evolve(self.sizes, stream=self.sizes.growth_stream)

    def _point(
        self,
        what: str,
        peer: AbstractContextManager[Running],
        work: Callable[[Running], works.Figures],
        shown: Mapping[str, Curves],
    ) -> None:
        """Do a work several times with a peer of its own; add the medians to the curves."""
        self.progress(what)
        found: dict[str, list[float]] = {name: [] for name in shown}
        with self._told(what), peer as running:
            for _ in range(self.sizes.rounds):
                figures = work(running)
                for name in shown:
                    found[name].append(figures[name])
        for name, curves in shown.items():
            values = found[name]
            ys = curves.series.setdefault("muxfs", [])
            ys.append(statistics.median(values) if values else None)
