"""When to look at the peer's file again: a pure function of how long nothing happened.

The pause is a fixed fraction of the quiet time, so that a late answer costs at most
that fraction more, the number of polls grows with the logarithm of the quiet time,
and the rate settles at the gentle maximum: 1 / MAX operations a second.
"""

from __future__ import annotations

from typing import Final

import attrs

FRACTION: Final = 1 / 8
SPIN: Final = 0.0003
"""Seconds of polling without pause, only where a read is a memory copy (tmpfs, two processes
on two cores: a stream's echo takes 0.21 ms with it, 0.31 ms when inotify has to wake us)."""

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
        seconds = min(self.maximum, max(self.minimum, quiet * FRACTION))
        if seconds >= LONG:
            seconds *= 1 + JITTER * (chance - 0.5)
        return Pause(max(least, seconds))
