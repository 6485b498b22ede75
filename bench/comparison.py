"""muxfs and its peers on the same work in the same run.

Both ends of each peer, the service and its clients run on this machine. All peers run
during the whole time and take turns, so that a noisy moment hits each of them alike. A peer
that cannot be started, or fails, is told of, and the others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from bench import crowds, endpoints, usage, works
from bench.peers import Peer, Running, scratch, service
from bench.report import Results
from bench.sizes import Sizes

WORKS = (*works.WORKS, *crowds.WORKS)
IDLE = "idle"
FAILURES = (OSError, RuntimeError, endpoints.Truncated, ValueError)


def chosen(words: Sequence[str]) -> list[works.Work]:
    """Return the works whose name holds one of the words; all without any."""
    return [work for work in WORKS if not words or any(word in work.name for word in words)]


@attrs.define(eq=False)
class Comparison:
    """One run."""

    sizes: Sizes
    progress: Callable[[str], None]
    results: Results = attrs.field(factory=Results)
    _failed: set[tuple[str, str]] = attrs.field(factory=set)

    def run(self, peers: Mapping[str, Peer], words: Sequence[str]) -> Results:
        """Start all peers, and do each work with each; then rest."""
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(service())
            running = []
            for name, peer in peers.items():
                self.progress(f"starting {name}")
                try:
                    running.append(stack.enter_context(peer(target)))
                except FAILURES as error:
                    self._tell(name, "does not start", error)
            for work in chosen(words):
                for number in range(self.sizes.rounds):
                    self._one_round(work, running, number)
            if not words or IDLE in words:
                self._rest([peer for peer in running if not peer.bulk_only])
        return self.results

    def _one_round(self, work: works.Work, peers: Sequence[Running], number: int) -> None:
        for peer in peers:
            if work.streams > peer.most_streams or (peer.bulk_only and not work.bulk):
                continue
            self.progress(f"{work.name}: round {number + 1} of {self.sizes.rounds}, {peer.name}")
            self._do(work, peer)

    def _do(self, work: works.Work, peer: Running) -> None:
        if (work.name, peer.name) in self._failed:
            return
        try:
            self.results.add(peer.name, work.run(peer, self.sizes))
        except FAILURES as error:
            self._failed.add((work.name, peer.name))
            self._tell(peer.name, work.name, error)

    def _rest(self, peers: Sequence[Running]) -> None:
        self.progress(f"idle for {self.sizes.idle:.0f} s")
        self._add(usage.idle(peers, self.sizes.idle))
        self.progress(f"idle for {self.sizes.idle:.0f} s, while operations are counted")
        with scratch() as place:
            self._add([usage.file_operations(peers, self.sizes.idle, place)])
        count = self.sizes.idle_streams
        able = [peer for peer in peers if peer.sides and count <= peer.most_streams]
        self.progress(f"{count} idle streams")
        found = crowds.idle_streams(able, self.sizes)
        self._add(found)
        self.results.troubles += [
            f"{peer.name}: {count} idle streams: failed"
            for peer in able
            if peer.name not in found[0]
        ]

    def _add(self, looks: Iterable[Mapping[str, usage.Figures]]) -> None:
        for look in looks:
            for name, figures in look.items():
                self.results.add(name, figures)

    def _tell(self, peer: str, what: str, error: Exception) -> None:
        self.results.troubles.append(f"{peer}: {what}: {error or type(error).__name__}")
