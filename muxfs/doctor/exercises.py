"""What two doctors do together, each on a file of its own: echo, torn views, a stream, a lock.

Each exercise is the same class on both sides; `leads` tells which. First both `prepare`
their own file, then both `run` and return what they saw, as values that JSON knows.
Times are seconds of `time.monotonic` of the side that took them.
"""

from __future__ import annotations

import abc
import errno
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs
import xxhash

from muxfs.doctor import locks, mountstats
from muxfs.doctor.patience import Patience
from muxfs.doctor.probes import OwnProbe, PeerProbe, ProbeDirectory, surest
from muxfs.storage.access import Access, ReadAccess, WriteAccess
from muxfs.storage.choices import Kind
from muxfs.storage.filesystem import Filesystem, default_access

AUTO: Final = "auto"
PAGE: Final = 4096
_WORD: Final = 8
_END: Final = (1 << 63) - 1
_NOTED: Final = 2000
_NOTED_LATER: Final = 64
_MOST_NOTED: Final = 3000
"""Of the numbers, the first ones are noted with their times, then each 64th: what both sides
note is the same, and fits into a message however long they go on."""
LEAST_ROUNDS: Final = 2
_IDLE_POLLS: Final = 32
_TICK: Final = 0.015
"""Seconds: more than a tick of any server's clock (4 to 10 ms)."""

Outcome = dict[str, Any]


@attrs.frozen
class Side:
    """One of the two doctors."""

    leads: bool
    probes: ProbeDirectory
    peer_nonce: str
    filesystem: Filesystem
    patience: Patience
    reads: Mapping[str, type[ReadAccess]]
    writes: Mapping[str, type[WriteAccess]]

    def access(self, name: str) -> Access:
        """Return the pair of strategies of that name, or what muxfs would choose here."""
        if name == AUTO:
            return default_access(self.filesystem)
        read, _, write = name.partition("+")
        return Access(self.reads[read](), self.writes[write]())

    @property
    def nap(self) -> float:
        """Seconds between polls: as a session would do it.

        MooseFS gets stuck when it is polled without pauses of a millisecond.
        """
        return 0.001 if self.filesystem.kind is Kind.NETWORK else 0.0001


class Exercise(abc.ABC):
    """One exercise; `number` makes the names of its files."""

    kind: ClassVar[str]

    def __init__(self, side: Side, number: int, options: Outcome) -> None:
        self.side = side
        self.number = number
        self.access = side.access(options.get("access", AUTO))
        self.seconds = float(options.get("seconds", 1.0))
        self.limit = float(options.get("limit", 1.0))
        self._made: OwnProbe | None = None
        self._peer: PeerProbe | None = None

    @property
    def own(self) -> OwnProbe:
        """The own file. Raises OSError if there is none."""
        if self._made is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._made

    @property
    def peer(self) -> PeerProbe:
        """The other side's file."""
        if self._peer is None:
            self._peer = self._open(self.access.read)
        return self._peer

    def create(self, size: int) -> None:
        """Create the own file."""
        name = self.side.probes.name(str(self.number))
        self._made = self.side.probes.create(name, self.access, size)

    def _open(self, strategy: ReadAccess) -> PeerProbe:
        probe = self.side.probes.open(self._peer_name, strategy)
        if probe is None:
            raise FileNotFoundError(
                errno.ENOENT, "the other side's file is not to be seen", self._peer_name
            )
        return probe

    @property
    def _peer_name(self) -> str:
        return f"{self.side.peer_nonce}-{self.number}"

    def close(self) -> None:
        """Remove the own file."""
        if self._peer is not None:
            self._peer.file.close()
        if self._made is not None:
            self.side.probes.remove(self._made)

    def put(self, value: int) -> None:
        """Fill the own file's first page with a number."""
        self.own.write(0, value.to_bytes(_WORD, "big") * (PAGE // _WORD))

    def look(self) -> int | None:
        """Return the number in the other side's first page; None where the view is torn."""
        data = self.peer.read(0, PAGE)
        return int.from_bytes(data[:_WORD], "big") if uniform(data, PAGE) else None

    def surely(self) -> int | None:
        """Return the same as the file server has it, by a descriptor of its own."""
        probe = self._open(surest().read)
        try:
            data = probe.read(0, PAGE)
        finally:
            probe.file.close()
        return int.from_bytes(data[:_WORD], "big") if uniform(data, PAGE) else None

    @abc.abstractmethod
    def prepare(self) -> None:
        """Create the own file."""

    @abc.abstractmethod
    def run(self) -> Outcome:
        """Do it. Raises OSError, Halted."""


class Echo(Exercise):
    """Ping-pong of numbers, overwritten in place: the leader writes, the follower repeats.

    What fools caches: the size never changes; the next write follows at once on the answer
    to the last one; every other round is written twice, so that a view of the first one may
    be kept for the second, within one tick of the server's clock.
    """

    kind = "echo"

    def prepare(self) -> None:  # noqa: D102
        self.torn = self.polls = self.written = 0
        self.create(PAGE)

    def run(self) -> Outcome:  # noqa: D102
        self.sent: dict[int, float] = {}
        self.seen: dict[int, float] = {}
        stall = self._lead() if self.side.leads else self._follow()
        outcome: Outcome = {
            "access": self.access.name,
            "sent": list(self.sent.items()),
            "seen": list(self.seen.items()),
            "written": self.written,
            "torn": self.torn,
            "polls": self.polls,
            "stall": stall,
            "direct": self.own.is_direct,
        }
        if stall is None:
            outcome |= self._poll_idly()
        return outcome

    def _lead(self) -> Outcome | None:
        end = time.monotonic() + self.seconds
        number = rounds = 0
        while rounds < LEAST_ROUNDS or time.monotonic() < end:
            rounds += 1
            if rounds % 2:
                number += 1
                self.put(number)
            number += 1
            self._write(number)
            if self._wait_for(number) is None:
                return self._explain(number)
            if rounds % 16 == 0:
                time.sleep(_TICK)
        self.put(_END)
        return None

    def _follow(self) -> Outcome | None:
        last = 0
        while True:
            number = self._wait_for(last + 1)
            if number is None:
                return self._explain(last + 1)
            if number == _END:
                return None
            last = number
            self._write(number)

    def _write(self, number: int) -> None:
        _note(self.sent, number, time.monotonic())
        self.put(number)
        self.written = number

    def _wait_for(self, number: int) -> int | None:
        """Wait until the other side's number is at least `number`; None after the limit."""
        before = time.monotonic()
        end = before + self.limit
        self.gap = 0.0
        while True:
            self.side.patience.check()
            value = self.look()
            now = time.monotonic()
            self.gap, before = max(self.gap, now - before), now
            self.polls += 1
            if value is None:
                self.torn += 1
            elif value >= number:
                _note(self.seen, value, now)
                return value
            if now > end:
                return None
            time.sleep(self.side.nap)

    def _explain(self, number: int) -> Outcome:
        """Look by a sure way, and only then once more by the one under test.

        What that still does not show then is proved to be stale. What it does show proves
        nothing: the sure way has made the client ask for the attributes.
        """
        return {
            "waited_for": number,
            "steady": self.gap < self.limit / 4,
            "server_has": self.surely(),
            "shown": self.look(),
        }

    def _poll_idly(self) -> Outcome:
        """Measure what a poll costs while nothing happens: seconds, and requests to the server."""
        mount_point = self.side.filesystem.mount_point
        before = mountstats.read_counts(mount_point)
        times: list[float] = []
        end = time.monotonic() + self.limit
        for _ in range(_IDLE_POLLS):
            start = time.monotonic()
            self.look()
            times.append(time.monotonic() - start)
            if time.monotonic() > end:
                break
        counts = mountstats.difference(before, mountstats.read_counts(mount_point))
        requests = None
        if counts is not None:
            requests = {name: round(count / len(times), 2) for name, count in counts.items()}
        return {"poll": sorted(times)[len(times) // 2], "requests": requests}


class Torn(Exercise):
    """Both write a large block again and again, and look how whole the other's block is."""

    kind = "torn"
    SIZE: Final = 1 << 20

    def prepare(self) -> None:  # noqa: D102
        self.create(self.SIZE)

    def run(self) -> Outcome:  # noqa: D102
        outcome = {"reads": 0, "torn": 0, "tail_first": 0, "within_page": 0}
        number, end = 0, time.monotonic() + self.seconds
        while time.monotonic() < end:
            self.side.patience.check()
            number += 1
            self.own.write(0, number.to_bytes(_WORD, "big") * (self.SIZE // _WORD))
            data = self.peer.read(0, self.SIZE)
            outcome["reads"] += 1
            if not uniform(data, self.SIZE):
                outcome["torn"] += 1
                outcome["tail_first"] += data[-_WORD:] > data[:_WORD]
                outcome["within_page"] += any(
                    not uniform(page, PAGE)
                    for start in range(0, len(data), PAGE)
                    if (page := data[start : start + PAGE])
                )
        return outcome


class Stream(Exercise):
    """Blocks through a ring, each proved by its checksum and acknowledged: one way."""

    kind = "stream"
    BLOCK: Final = 1 << 20
    _HEAD: Final = 3 * _WORD  # number, flag of the last, checksum

    def __init__(self, side: Side, number: int, options: Outcome) -> None:
        super().__init__(side, number, options)
        self.sends = side.leads == bool(options.get("by_leader"))
        self.blocks = max(2, int(options.get("ring", 0)) // self.BLOCK)

    def prepare(self) -> None:  # noqa: D102
        self.create(self.blocks * self.BLOCK if self.sends else PAGE)

    def run(self) -> Outcome:  # noqa: D102
        return self._send() if self.sends else self._receive()

    def _send(self) -> Outcome:
        body = os.urandom(self.BLOCK - self._HEAD)
        start = time.monotonic()
        number = acknowledged = 0
        last = False
        while not last:
            self.side.patience.check()
            number += 1
            last = time.monotonic() - start > self.seconds
            head = number.to_bytes(_WORD, "big") + int(last).to_bytes(_WORD, "big")
            check = xxhash.xxh3_64(head)
            check.update(body)
            self.own.write(self._place(number), head, check.digest(), body)
            least = number if last else number - self.blocks + 1
            if acknowledged < least:
                acknowledged = self._wait_for(least)
        seconds = time.monotonic() - start
        return {"bytes": number * self.BLOCK, "seconds": seconds}

    def _receive(self) -> Outcome:
        number, last = 0, False
        while not last:
            self.side.patience.check()
            number += 1
            last = self._take(number)
            self.put(number)
        return {}

    def _take(self, number: int) -> bool:
        """Wait for a block; return whether it is the last one."""
        end = time.monotonic() + self.limit
        place = self._place(number)
        while True:
            data = self.peer.read(place, self.BLOCK)
            while int.from_bytes(data[:_WORD], "big") != number:
                self._pause(end)
                data = self.peer.read(place, PAGE)
            if len(data) == PAGE:
                data = self.peer.read(place, self.BLOCK)
            check = xxhash.xxh3_64(data[: 2 * _WORD])
            check.update(memoryview(data)[self._HEAD :])
            if len(data) == self.BLOCK and check.digest() == data[2 * _WORD : self._HEAD]:
                return bool(int.from_bytes(data[_WORD : 2 * _WORD], "big"))
            self._pause(end)

    def _wait_for(self, number: int) -> int:
        end = time.monotonic() + self.limit
        while (value := self.look() or 0) < number:
            self._pause(end)
        return value

    def _pause(self, end: float) -> None:
        self.side.patience.check()
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, "the stream stood still")
        time.sleep(self.side.nap)

    def _place(self, number: int) -> int:
        return (number % self.blocks) * self.BLOCK


class Lock(Exercise):
    """The leader locks its file, and the follower tries to do so, too."""

    kind = "lock"

    def prepare(self) -> None:  # noqa: D102
        self.held: locks.Answer | None = None
        if self.side.leads:
            self.create(PAGE)
            with self.own.file.writing as descriptor:
                self.held = locks.try_lock(descriptor, self.limit)

    def run(self) -> Outcome:  # noqa: D102
        if self.held is not None:
            return {"answer": self.held.value}
        path = os.path.join(self.side.probes.path, self._peer_name)
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return {"answer": locks.try_lock(descriptor, self.limit).value}
        finally:
            os.close(descriptor)


EXERCISES: Final[dict[str, type[Exercise]]] = {
    exercise.kind: exercise for exercise in (Echo, Torn, Stream, Lock)
}


def _note(times: dict[int, float], number: int, now: float) -> None:
    if (number < _NOTED or number % _NOTED_LATER == 0) and len(times) < _MOST_NOTED:
        times[number] = now


def uniform(data: bytes, length: int) -> bool:
    """Whether it is `length` bytes of one word again and again."""
    return len(data) == length and data == data[:_WORD] * (length // _WORD)
