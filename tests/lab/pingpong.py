"""Two clients that answer each other by nothing but a counter in a file, with no session around.

    python -m tests.lab.pingpong first|second DIRECTORY ACCESS|default ROUNDS [SECONDS]

Each writes its counter in place, always the same four bytes of its own file: the case that
fools caches. Bursts of rounds alternate with pauses. Prints JSON: how many rounds were made,
in how many seconds, and whether it stuck then, though the counter was on the server. The first
one ends after SECONDS, however many rounds were made.

DIRECTORY holds both files, made by one client: on NFS v3 a name that was looked for in the tick in
which it was made may stay unseen for a minute.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from typing import Final

import attrs

from muxfs.storage.access import Access
from muxfs.storage.filesystem import default_access, find_filesystem

from .traffic import PAUSES

BURST: Final = 25
STUCK: Final = 8.0
"""Seconds; what is seen at all is seen within milliseconds."""
START: Final = 60.0
"""Seconds until the other one has begun."""
NAP: Final = 0.0005
COUNTER: Final = 4
END: Final = (1 << 8 * COUNTER) - 1
"""What the first one counts when it has no more time."""


@attrs.frozen
class Counters:
    """The own file, and the other one's."""

    access: Access
    own: int
    other: int
    nap: float
    """Seconds between looks: as the filesystem asks for, or few."""

    @classmethod
    def open(cls, directory: str, own: str, other: str, access: Access) -> Counters:
        """Open both; the other one's must be there."""
        nap = max(NAP, find_filesystem(directory).choice.least_pause)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | access.write.flags
        descriptor = os.open(os.path.join(directory, own), flags, 0o600)
        access.write.write(descriptor, 0, [bytes(4096)])
        path = os.path.join(directory, other)
        reading = access.read.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(access, descriptor, reading, nap)

    def say(self, number: int) -> None:
        """Write the own counter."""
        self.access.write.write(self.own, 0, [number.to_bytes(COUNTER, "big")])

    def look(self) -> int:
        """Read the other one."""
        return int.from_bytes(self.access.read.read(self.other, 0, COUNTER), "big")

    def see(self, number: int, within: float) -> int:
        """Wait until the other counter is that far; return how far it is, or was then."""
        deadline = time.monotonic() + within
        while (seen := self.look()) < number and time.monotonic() <= deadline:
            time.sleep(self.nap)
        return seen


def play(
    role: str, directory: str, name: str, rounds: int, seconds: float = math.inf
) -> dict[str, object]:
    """Play one side."""
    other = "second" if role == "first" else "first"
    chosen = default_access(find_filesystem(directory))
    access = chosen if name == "default" else Access.named(name)
    start = time.monotonic()
    counters = Counters.open(directory, role, other, access)
    report: dict[str, object] = {"access": access.name, "met after s": time.monotonic() - start}
    begin = time.monotonic()

    def ended(number: int, *, stuck: bool) -> dict[str, object]:
        took = time.monotonic() - begin
        return report | {"rounds": number, "stuck": stuck, "seconds": took}

    pauses = itertools.cycle(PAUSES)
    for number in range(1, rounds + 1):
        if role == "first":
            if time.monotonic() - begin > seconds:
                counters.say(END)
                return ended(number - 1, stuck=False)
            if number % BURST == 0:
                time.sleep(next(pauses))
            counters.say(number)
        # the one who is waited for is stuck; the other one must not think so
        within = START if number == 1 else STUCK if role == "second" else 2 * STUCK
        seen = counters.see(number, within)
        if seen < number:
            truth = Counters.open(directory, "none", other, Access.named("direct+dsync")).look()
            return ended(number, stuck=truth >= number)
        if seen == END:
            return ended(number - 1, stuck=False)
        if role == "second":
            counters.say(number)
    return ended(rounds, stuck=False)


if __name__ == "__main__":
    role, place, name, rounds, *seconds = sys.argv[1:]
    print(json.dumps(play(role, place, name, int(rounds), *map(float, seconds))))
