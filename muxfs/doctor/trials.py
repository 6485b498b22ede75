"""From what both sides saw in an echo exercise to a trial: pure functions."""

from __future__ import annotations

import enum
from typing import Any

import attrs

from muxfs.doctor.candidates import PAST_THE_CACHE, SYNCED
from muxfs.doctor.statistics import Summary, delays, histogram

Outcome = dict[str, Any]


class Fault(enum.Enum):
    """Why a trial did not go through."""

    UNREAD = "unread"  # the server has it, and the reader does not see it
    UNWRITTEN = "unwritten"  # the writer wrote it, and the server does not have it
    SLOW = "slow"  # it came, but only after the limit
    FAILED = "failed"  # the system refused
    UNTRIED = "untried"  # there was no time left for it


@attrs.frozen
class Trial:
    """How one pair of strategies did, both hosts together. Times in seconds."""

    access: str
    """What was asked for: READ+WRITE, or `auto`."""
    names: tuple[str, str]
    """What the leader and the follower really used."""
    fault: Fault | None = None
    proved: bool = True
    """Whether nothing else explains the fault, such as a host that stood still for a moment."""
    error: str = ""
    """Of the system, for FAILED; what was not enough, for UNTRIED."""
    round_trip: Summary | None = None
    there: Summary | None = None
    """From the start of a write by the leader until the follower sees it."""
    back: Summary | None = None
    uncertainty: float = 0.0
    """By how much `there` may be too long and `back` too short, or the other way round."""
    histogram: tuple[int, ...] = ()
    """Of both directions' delays; see `statistics.BOUNDS`."""
    torn: int = 0
    looks: int = 0
    poll: float | None = None
    """Seconds of a poll while nothing happens, the median; of the slower side."""
    requests: dict[str, float] | None = None
    """Requests to the file server per idle poll; None where the kernel does not count them."""
    direct: bool = True
    """Whether O_DIRECT was in force where it was asked for, on both sides."""

    @property
    def passed(self) -> bool:
        """Whether all that was written was seen, in time."""
        return self.fault is None and self.round_trip is not None

    @property
    def doubtful(self) -> bool:
        """Whether it is worth another try."""
        return not self.proved and (self.fault is Fault.SLOW or self.dependable)

    @property
    def dependable(self) -> bool:
        """Whether it can be relied on beyond what was tried: no cache can come between."""
        return all(
            read in PAST_THE_CACHE and write in SYNCED
            for read, _, write in (name.partition("+") for name in self.names)
        )

    def facts(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "access": self.access,
            "names": list(self.names),
            "passed": self.passed,
            "fault": None if self.fault is None else self.fault.value,
            "error": self.error,
            "round_trip": self.round_trip and self.round_trip.facts(),
            "there": self.there and self.there.facts(),
            "back": self.back and self.back.facts(),
            "uncertainty_ms": round(self.uncertainty * 1e3, 4),
            "histogram": list(self.histogram),
            "torn": self.torn,
            "looks": self.looks,
            "poll_ms": None if self.poll is None else round(self.poll * 1e3, 4),
            "requests_per_poll": self.requests,
            "o_direct": self.direct,
        }


def failed(access: str, error: str, fault: Fault = Fault.FAILED) -> Trial:
    """Return the trial of a strategy that the system refused, or that came to no end."""
    return Trial(access, (access, access), fault, error=error)


def judge(access: str, leader: Outcome, follower: Outcome) -> Trial:
    """Put both sides' outcomes of an echo together."""
    sent, got = _times(leader["sent"]), _times(leader["seen"])
    answered, seen = _times(follower["sent"]), _times(follower["seen"])
    trips = [got[number] - start for number, start in sent.items() if number in got]
    found = delays(sent, seen, answered, got)
    polls = [side["poll"] for side in (leader, follower) if "poll" in side]
    fault, proved = _fault(leader, follower)
    return Trial(
        access=access,
        names=(leader["access"], follower["access"]),
        fault=fault,
        proved=proved,
        round_trip=Summary.of(trips),
        there=Summary.of(found.there) if found else None,
        back=Summary.of(found.back) if found else None,
        uncertainty=found.uncertainty if found else 0.0,
        histogram=tuple(histogram(found.there + found.back)) if found else (),
        torn=leader["torn"] + follower["torn"],
        looks=leader["polls"] + follower["polls"],
        poll=max(polls, default=None),
        requests=follower.get("requests") or leader.get("requests"),
        direct=leader["direct"] and follower["direct"],
    )


def _fault(leader: Outcome, follower: Outcome) -> tuple[Fault | None, bool]:
    """Say who is to blame, and whether that is proved.

    Each side that waited in vain has asked the server by a sure way.
    """
    sides = ((leader["stall"], follower), (follower["stall"], leader))
    stalls = [(stall, other) for stall, other in sides if stall is not None]
    if not stalls:
        return None, True
    there = [stall for stall, _ in stalls if (stall["server_has"] or 0) >= stall["waited_for"]]
    if any((stall["shown"] or 0) < stall["waited_for"] for stall in there):
        return Fault.UNREAD, True
    if there:
        return (Fault.UNREAD if all(stall["steady"] for stall in there) else Fault.SLOW), False
    if any(other["written"] >= stall["waited_for"] for stall, other in stalls):
        return Fault.UNWRITTEN, False
    return Fault.SLOW, False


def _times(pairs: list[list[float]]) -> dict[int, float]:
    return {int(number): float(moment) for number, moment in pairs}
