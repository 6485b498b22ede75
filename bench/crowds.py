"""Works of many connections at once."""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import attrs

from bench import endpoints, usage
from bench.peers import Running
from bench.sizes import Sizes
from bench.works import Figures, Work, percentile

BURST = 64
MESSAGE = 64
"""Bytes of a small write."""
INTERVAL = 0.001
"""Seconds between the small writes of one stream."""
AFTERWARDS = 5.0
"""Seconds in which the answers to small writes may still come."""


def in_parallel(works: Sequence[Callable[[], object]]) -> tuple[float, int]:
    """Run them in threads; return the seconds until the last has ended, and how many failed."""
    barrier, failures = threading.Barrier(len(works) + 1), []

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
        except (OSError, endpoints.Truncated) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, len(failures)


def _rate(name: str, size: int, works: Sequence[Callable[[], object]]) -> Figures:
    seconds, failed = in_parallel(works)
    if failed:
        raise endpoints.Truncated(f"{failed} of {len(works)} streams failed")
    return {f"{name} [MB/s]": size / seconds / 1e6}


def many_streams(peer: Running, sizes: Sizes) -> Figures:
    """Streams down side by side; all bytes together."""
    size = peer.part(sizes.stream) // sizes.streams
    work = [lambda: endpoints.download(peer.port, size)] * sizes.streams
    return _rate(f"{sizes.streams} streams down", size * sizes.streams, work)


def both_directions(peer: Running, sizes: Sizes) -> Figures:
    """One stream up and one down at the same time; both together."""
    size = peer.part(sizes.stream) // 2
    transfers = (endpoints.upload, endpoints.download)
    work = [lambda transfer=transfer: transfer(peer.port, size) for transfer in transfers]
    return _rate("one up and one down", 2 * size, work)


def burst(peer: Running, sizes: Sizes) -> Figures:
    """Many short connections at the same time: until the last is closed."""
    work = [lambda: endpoints.short_connection(peer.port)] * BURST
    runs = [in_parallel(work) for _ in range(sizes.bursts)]
    return {
        f"{BURST} connections at once [ms]": statistics.median(run[0] for run in runs) * 1e3,
        f"of {BURST} at once failed": sum(run[1] for run in runs),
    }


@contextlib.contextmanager
def open_crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open streams to the service that echoes for many; each has got its first byte."""
    with contextlib.ExitStack() as stack:
        members = []
        for _ in range(count):
            connection = stack.enter_context(endpoints.connect(port))
            connection.sendall(endpoints.REQUEST.pack(endpoints.CROWD, 0))
            members.append(connection)
        for connection in members:
            endpoints.receive_exactly(connection, 1)
        yield members


def round_trip(connection: socket.socket) -> float:
    """Have one byte echoed; return the seconds."""
    start = time.perf_counter()
    connection.send(b"x")
    endpoints.receive_exactly(connection, 1)
    return time.perf_counter() - start


@attrs.define(eq=False)
class _Writer:
    """A stream with small writes, and the times at which they were sent."""

    connection: socket.socket
    sent: deque[float] = attrs.field(factory=deque)
    received: int = 0

    def send(self, now: float) -> None:
        """Send one more."""
        self.sent.append(now)
        self.connection.sendall(bytes(MESSAGE))

    def take(self, now: float, seconds: list[float]) -> None:
        """Count the answers that are there."""
        self.received += len(self.connection.recv(endpoints.BUFFER))
        while self.received >= MESSAGE:
            self.received -= MESSAGE
            seconds.append(now - self.sent.popleft())


def _write(writers: Sequence[_Writer], duration: float, seconds: list[float]) -> int:
    """Write for a while, collect what comes back and how late; return how many were sent.

    A tick that comes late is made up for: so many writes a second are offered in any case.
    """
    poll, by_descriptor = select.epoll(), {w.connection.fileno(): w for w in writers}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    start, ticks = time.perf_counter(), 0
    with poll:
        while True:
            now = time.perf_counter() - start
            if ticks < duration / INTERVAL and now >= ticks * INTERVAL:
                due = time.perf_counter()
                for writer in writers:
                    writer.send(due)
                ticks += 1
                continue
            writing = ticks < duration / INTERVAL
            if not writing and not any(writer.sent for writer in writers):
                break
            if now > duration + AFTERWARDS:
                raise endpoints.Truncated("small writes did not come back")
            pause = max(0.0, ticks * INTERVAL - now) if writing else 0.1
            for descriptor, _ in poll.poll(pause):
                by_descriptor[descriptor].take(time.perf_counter(), seconds)
    return ticks * len(writers)


def small_writes(peer: Running, sizes: Sizes) -> Figures:
    """64 bytes a thousand times a second on each of many streams, all of them echoed."""
    seconds: list[float] = []
    with open_crowd(peer.port, sizes.writers) as members:
        start = time.perf_counter()
        sent = _write([_Writer(member) for member in members], sizes.writing, seconds)
        elapsed = time.perf_counter() - start
    return {
        "small writes [1/s]": sent / elapsed,
        "small writes p50 [ms]": statistics.median(seconds) * 1e3,
        "small writes p99 [ms]": percentile(seconds, 0.99) * 1e3,
    }


def idle_streams(peers: Sequence[Running], sizes: Sizes) -> list[dict[str, Figures]]:
    """Idle streams on all peers: what they cost while they are open, and whether they still work.

    A peer that cannot have as many is left out. Returned as by `usage.idle`.
    """
    prefix = f"with {sizes.idle_streams} idle streams: "
    with contextlib.ExitStack() as stack:
        crowds = {}
        for peer in peers:
            with contextlib.suppress(OSError, endpoints.Truncated):
                crowd = open_crowd(peer.port, sizes.idle_streams)
                crowds[peer.name] = stack.enter_context(crowd)
        able = [peer for peer in peers if peer.name in crowds]
        looks: list[dict[str, Figures]] = [
            {
                name: {prefix + figure: value for figure, value in used.items()}
                for name, used in look.items()
            }
            for look in usage.idle(able, sizes.idle)
        ]
        echoes: dict[str, Figures] = {
            name: {prefix + "echo p50 [us]": statistics.median(map(round_trip, crowd)) * 1e6}
            for name, crowd in crowds.items()
        }
        return [*looks, echoes]


WORKS = (
    Work("many streams", many_streams, streams=16),
    Work("both directions", both_directions),
    Work("many connections at once", burst, streams=BURST),
    Work("small writes", small_writes, streams=50),
)
