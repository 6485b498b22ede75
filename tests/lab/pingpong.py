"""Two clients that answer each other by nothing but a counter in a file, with no session around.

    python -m tests.lab.pingpong first|second DIRECTORY ACCESS|default ROUNDS

Each writes its counter in place, always the same four bytes of its own file: the case that
fools caches. Bursts of rounds alternate with pauses. Prints JSON: how many rounds were made,
and at which one it stuck, if it did, though the counter was on the server.

DIRECTORY holds both files, made by one client: on NFS v3 a name that was looked for in the tick in
which it was made may stay unseen for a minute.
"""

from __future__ import annotations

import itertools
import json
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

    def see(self, number: int, within: float) -> bool:
        """Wait until the other counter is that far."""
        deadline = time.monotonic() + within
        while self.look() < number:
            if time.monotonic() > deadline:
                return False
            time.sleep(self.nap)
        return True


def play(role: str, directory: str, name: str, rounds: int) -> dict[str, object]:
    """Play one side."""
    other = "second" if role == "first" else "first"
    chosen = default_access(find_filesystem(directory))
    access = chosen if name == "default" else Access.named(name)
    start = time.monotonic()
    counters = Counters.open(directory, role, other, access)
    report: dict[str, object] = {"access": access.name, "met after s": time.monotonic() - start}
    pauses = itertools.cycle(PAUSES)
    for number in range(1, rounds + 1):
        if role == "first":
            if number % BURST == 0:
                time.sleep(next(pauses))
            counters.say(number)
        # the one who is waited for is stuck; the other one must not think so
        within = START if number == 1 else STUCK if role == "second" else 2 * STUCK
        if not counters.see(number, within):
            truth = Counters.open(directory, "none", other, Access.named("direct+dsync")).look()
            return report | {"rounds": number, "stuck": truth >= number}
        if role == "second":
            counters.say(number)
    return report | {"rounds": rounds, "stuck": False}


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
