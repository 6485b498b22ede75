"""When to look at the peer's file again: a pure function of how long nothing happened.

At first the pause is a fraction of the quiet time, so that a late answer costs at most that
fraction more, and the number of polls grows with its logarithm. Then it grows as the root: of
gaps whose logarithms are equally likely that gives the least delay for the same number of
polls. In the end the rate settles at the gentle maximum, 1 / MAX operations a second.

Chosen by replaying recorded traffic (`python -m bench polling`): against a plain eighth, what
a person waits for comes a third sooner in a Jupyter session, with 10 % fewer operations.
A gap that is learned (mean and deviation as in RFC 6298) gave nothing over this: it is as
long as the quiet time says.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

NEAR: Final = 1 / 4
"""Share of the quiet time that a pause lasts at first."""

ROOT: Final = 0.1
"""Seconds of pause after a second; they grow as the root of the quiet time."""

FAR: Final = 1 / 16
"""Share of the quiet time that a pause lasts at the least, so that the maximum is reached after
16 of them and not after 100."""

FRACTION: Final = 1 / 8
"""The same for naps within one worker call, and for reads that wait: these answer echoes."""

SPIN: Final = 0.0003
"""Seconds of polling without pause, only where a read is a memory copy and inotify is not to be
had. Beside inotify it takes the cores from client and server: on two of them a short connection
cost a quarter more CPU and took as much longer."""

NAP_FOR: Final = 0.02
"""Seconds of napping inside one worker call; after it, timers of 1 ms granularity do."""

SHORTEST_NAP: Final = 0.0001

WAIT_FOR: Final = 0.05
"""Seconds after traffic in which a read of a file server waits for news in its worker thread. A
thread hop costs 50 us, in a virtual machine on a busy core 0.5 ms and more, a READ 0.1 to 0.3 ms:
one hop for each look, and an echo takes 13 ms where two bare files take 0.9 (NFS, lab)."""

SHORTEST_WAIT: Final = 0.004
"""Seconds that such a read lasts at the least; then as long as it was quiet before."""

LONG: Final = 0.05
"""Pauses of so many seconds vary, so that the polls of many tunnels do not come all at once."""

JITTER: Final = 0.1
"""Share of a pause within which it may be."""


@attrs.frozen
class Pause:
    """What to do before the next poll: sleep `seconds`; `nap`: poll that often meanwhile."""

    seconds: float
    nap: float = 0.0


@attrs.frozen
class PollPolicy:
    """`--poll MIN:MAX`, in seconds."""

    minimum: float = 0.0003
    maximum: float = 1.0

    def wait(self, quiet: float, least: float = 0.0) -> Pause:
        """Return how long one read of a file server waits for news, and how often it looks.

        Of no seconds once nothing happened for long. `least`: as for `pause`.
        """
        if quiet >= WAIT_FOR:
            return Pause(0.0)
        seconds = min(WAIT_FOR - quiet, max(SHORTEST_WAIT, quiet))
        return Pause(seconds, nap=max(self.minimum, least, quiet * FRACTION))

    def pause(
        self, quiet: float, immediate: bool, least: float = 0.0, chance: float = 0.5
    ) -> Pause:
        """Return the pause after `quiet` seconds without traffic in either direction.

        `least`: what the filesystem asks for, whatever the policy says. `chance`: a number
        from 0 to 1 that makes long pauses shorter or longer.
        """
        if immediate and quiet < SPIN:
            return Pause(0.0)
        if immediate and quiet < NAP_FOR:
            return Pause(NAP_FOR - quiet, nap=max(SHORTEST_NAP, quiet * FRACTION))
        ideal = min(quiet * NEAR, max(quiet * FAR, ROOT * math.sqrt(quiet)))
        seconds = min(self.maximum, max(self.minimum, ideal))
        if seconds >= LONG:
            seconds *= 1 + JITTER * (chance - 0.5)
        return Pause(max(least, seconds))
