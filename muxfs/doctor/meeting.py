"""How two doctors find each other and agree who leads: two slots, no lock.

Each slot is a file with a fixed name (so that no directory has to be listed). A doctor
takes a free slot by writing itself into it, and looks again and again whether it is still
written there: of two who took the same slot, the later one has it, and the other one goes
to look for another. Both beat as long as they wait, so that a slot whose document does not
change is known to be left behind by a killed one. They are a pair once each names the other;
who has slot 0 leads.

`decide` is a pure function of what was seen; `meet` looks, acts and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

import attrs

from muxfs.doctor.patience import Patience
from muxfs.doctor.probes import PeerProbe, ProbeDirectory, surest
from muxfs.doctor.slots import Document, OwnSlot, look_afresh

SLOTS: Final = ("slot-0", "slot-1")
BEAT: Final = 0.2
"""Seconds between looks at first, and between beats."""
IDLE_BEAT: Final = 1.0
"""The same after BUSY_TIME of waiting: to be gentle."""
BUSY_TIME: Final = 20.0
DEAD_AFTER: Final = 3.5
"""Seconds without a beat until a slot counts as left behind."""


@attrs.frozen
class Seen:
    """Who stands in a slot."""

    nonce: str
    echo: str | None
    """Whom that doctor sees; None: nobody."""
    alive: bool | None
    """None: not known yet."""
    made: bool = False
    """Whether that doctor made the tunnel's directory."""


@attrs.frozen
class Decision:
    """What to do next."""

    act: Literal["wait", "take", "beat", "leave", "paired"]
    slot: int = 0
    """To take."""
    echo: str | None = None
    """Whom to name in the own slot."""


def decide(nonce: str, own: int | None, seen: tuple[Seen | None, Seen | None]) -> Decision:
    """Decide for the doctor `nonce`, who holds the slot `own`; `seen` is what stands in both."""
    if own is None:
        return _decide_without_slot(seen)
    mine, other = seen[own], seen[1 - own]
    if mine is None or mine.nonce != nonce:
        return Decision("leave")
    if other is None or other.alive is not True or other.nonce == nonce:
        return Decision("beat")
    if other.echo == nonce:
        named = mine.echo == other.nonce
        return Decision("paired" if named else "beat", echo=other.nonce)
    return Decision("beat", echo=None if other.echo else other.nonce)


def _decide_without_slot(seen: tuple[Seen | None, Seen | None]) -> Decision:
    living = [entry is not None and entry.alive is not False for entry in seen]
    if all(living):
        return Decision("wait")  # two are at work, or it is not known yet
    for slot in (0, 1):
        entry = seen[1 - slot]
        if not living[slot] and entry is not None and entry.alive:
            return Decision("take", slot, entry.nonce if entry.echo is None else None)
    # nobody is known to wait: the first slot, but not if somebody may live in the other one
    return Decision("wait") if any(living) else Decision("take", 0)


class _Watch:
    """Finds out whether the doctor of a slot lives: its beat changes."""

    def __init__(self) -> None:
        self._last: tuple[str, object] | None = None
        self._since = 0.0
        self._alive: bool | None = None

    def look(self, document: Document | None, now: float) -> Seen | None:
        if document is None:
            self._last = None
            return None
        nonce = str(document.get("nonce"))
        beat = nonce, document.get("beat")
        if beat != self._last:
            # a first sight of somebody says nothing yet: it may be what a killed one left
            self._alive = True if self._last is not None and self._last[0] == nonce else None
            self._last, self._since = beat, now
        elif now - self._since > DEAD_AFTER:
            self._alive = False
        made = bool(document.get("made"))
        return Seen(nonce, document.get("echo"), self._alive, made)


class NobodyCame(Exception):
    """The time to wait is over; `busy`: two other doctors are at work there."""

    def __init__(self, *, busy: bool) -> None:
        super().__init__(busy)
        self.busy = busy


@attrs.frozen
class Meeting:
    """A pair of doctors."""

    leads: bool
    slot: OwnSlot
    peer: PeerProbe
    peer_nonce: str
    peer_made: bool
    """Whether the other one made the tunnel's directory, which the last one removes."""


class Visitor:
    """A doctor who looks for another one."""

    def __init__(self, probes: ProbeDirectory, *, made: bool = False) -> None:
        self._probes = probes
        self._made = made
        self._watches = (_Watch(), _Watch())
        self._own: int | None = None
        self._slot: OwnSlot | None = None
        self._beat = 0

    @property
    def has_slot(self) -> bool:
        """Whether others can see this one."""
        return self._slot is not None

    def step(self, now: float) -> Meeting | None:
        """Look once, and do what is to be done; return the pair once there is one."""
        seen = self._look(0, now), self._look(1, now)
        decision = decide(self._probes.nonce, self._own, seen)
        if decision.act == "leave":
            self.leave()
        elif decision.act == "take":
            self._own = decision.slot
            self._slot = OwnSlot.take(self._probes, SLOTS[decision.slot])
        if self._slot is None or self._own is None:
            return None
        if decision.act != "paired":
            self._probes.show_names()  # the other one may have looked just before they were there
        self._beat += 1
        self._slot.put(
            {
                "nonce": self._probes.nonce,
                "beat": self._beat,
                "echo": decision.echo,
                "made": self._made,
            }
        )
        if decision.act != "paired" or decision.echo is None:
            return None
        peer, other = self._probes.open(SLOTS[1 - self._own], surest().read), seen[1 - self._own]
        if peer is None or other is None:
            return None
        return Meeting(self._own == 0, self._slot, peer, decision.echo, other.made)

    def leave(self) -> None:
        """Give the slot up to who has taken it."""
        if self._slot is not None:
            self._slot.leave()
        self._own = self._slot = None

    def _look(self, number: int, now: float) -> Seen | None:
        # By its name, the own one too: it may have been deleted.
        return self._watches[number].look(look_afresh(self._probes, SLOTS[number]), now)


def meet(
    probes: ProbeDirectory,
    patience: Patience,
    wait: float,
    waiting: Callable[[], None],
    *,
    made: bool = False,
) -> Meeting:
    """Wait at most `wait` seconds for the other doctor; `waiting` is called before each pause.

    `made`: this one made the tunnel's directory. Raises NobodyCame, Halted, OSError.
    """
    visitor, start = Visitor(probes, made=made), time.monotonic()
    while True:
        patience.check()
        now = time.monotonic()
        meeting = visitor.step(now)
        if meeting is not None:
            return meeting
        if now - start > wait:
            raise NobodyCame(busy=not visitor.has_slot)
        waiting()
        time.sleep(BEAT if now - start < BUSY_TIME else IDLE_BEAT)
