"""Two doctors end in time, whatever their exercises do: with a clock that only the test moves."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from muxfs.doctor import pair
from muxfs.doctor.budget import Budget
from muxfs.doctor.channel import Body
from muxfs.doctor.exercises import AUTO, EXERCISES
from muxfs.doctor.pair import Host, Pair, Plan, Programme
from muxfs.doctor.patience import OutOfTime, Patience

from .conftest import Start
from .test_pair import StaleRead, examine, named

STEP = 0.01
STALE = {"waited_for": 2, "server_has": 2, "shown": 0, "steady": True}
HOST = Host("host", "boot/x/1", "/nowhere on nfs4", "nfs4", 1, "direct+dsync", "muxfs")
REPORT = 30.0
"""Seconds within which a doctor has ended, with its start and its cleaning up."""


class Clock:
    """Tells the time that the simulation has come to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@attrs.define
class World:
    """What the exercises of a simulated pair do, and how long that takes."""

    clock: Clock
    patience: Patience
    seconds: dict[str, float] = attrs.field(factory=dict)
    """Of an exercise's kind; else those that it was asked for."""
    preparing: float = 0.0
    greeting: float = 0.0
    stall: Body | None = None
    """What an echo comes to."""
    done: list[str] = attrs.field(factory=list)

    def spend(self, seconds: float) -> None:
        """Be busy for so long, asking for patience as exercises do."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.patience.check()
            self.clock.now += STEP

    def exercise(self, kind: str) -> type[Any]:
        world = self

        class Simulated:
            def __init__(self, side: Any, number: int, options: Body) -> None:
                self.options = options

            def prepare(self) -> None:
                world.spend(world.preparing)

            def run(self) -> Body:
                world.done.append(f"{kind} {self.options.get('access', '')}".strip())
                asked = max(self.options.get("seconds", 0.0), 0.0)
                world.spend(world.seconds.get(kind, asked))
                return world.outcome(kind, self.options)

            def close(self) -> None:
                pass

        Simulated.kind = kind  # type: ignore[attr-defined]
        return Simulated

    def outcome(self, kind: str, options: Body) -> Body:
        if kind == "echo":
            return {
                "access": options["access"],
                "sent": [[2, 0.0]],
                "seen": [[2, 0.001]],
                "written": 2,
                "torn": 0,
                "polls": 1,
                "stall": self.stall,
                "direct": True,
            }
        return {
            "torn": {"reads": 1, "torn": 0},
            "stream": {"bytes": 1 << 20, "seconds": 1.0},
            "lock": {"answer": "granted"},
        }[kind]


@attrs.define
class Follower:
    """The other doctor, which answers at once what the same exercise would have come to."""

    world: World
    request: Body = attrs.field(factory=dict)
    began: bool = False

    def send(self, body: Body) -> None:
        if body:
            self.request, self.began = body, False
        else:
            self.began = True

    def receive(self, within: float) -> Body:
        if self.request["do"] == "hello":
            self.world.clock.now += self.world.greeting
            return {"host": attrs.asdict(HOST)}
        if self.request["do"] == "report" or not self.began:
            return {}
        return {"outcome": self.world.outcome(self.request["do"], self.request["options"])}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    clock = Clock()
    world = World(clock, Patience(clock))
    for kind in EXERCISES:
        monkeypatch.setattr(pair, kind.capitalize(), world.exercise(kind))
    return world


def lead(world: World, plan: Plan) -> tuple[Body, float]:
    """Lead a programme in the world; return the report, and the seconds that it took."""
    side = attrs.make_class("Side", ["patience"])(world.patience)
    both = Pair(Follower(world), side, plan, HOST, lambda *_: None)  # type: ignore[arg-type]
    start = world.clock.now
    return Programme(both).run(), world.clock.now - start


def faults(report: Body) -> dict[str, str]:
    return {trial["access"]: trial["fault"] for trial in report["trials"]}


def test_where_all_is_well_nothing_is_left_out(world: World) -> None:
    report, seconds = lead(world, Plan())
    assert set(faults(report).values()) == {None}
    assert all(report["streams"])
    assert seconds < pair.TOTAL
    assert len(world.done) == 8 + 1 + 2 + 1


def test_exercises_that_stand_still_until_their_limits(world: World) -> None:
    """All ways are stale, and each takes as long as that can take: 4.4 and seven times 3.6 s."""
    world.seconds["echo"], world.stall = 3.6, STALE
    report, seconds = lead(world, Plan())
    found = faults(report)
    assert found["direct+dsync"] == "unread"
    assert list(found.values())[-1] == "untried"
    assert "of those that there was time for" in report["recommendation"]["words"]
    assert seconds <= Plan().most < REPORT


@pytest.mark.parametrize("kind", EXERCISES)
def test_an_exercise_without_end(world: World, kind: str) -> None:
    world.seconds[kind] = math.inf
    report, seconds = lead(world, Plan())
    assert seconds <= Plan().most + 4 * STEP
    assert set(faults(report).values()) == ({"untried"} if kind == "echo" else {None})
    assert (report["torn"] is None) == (kind in {"torn", "echo"})


def test_files_that_take_for_ever_to_be_made(world: World) -> None:
    world.preparing = math.inf
    report, seconds = lead(world, Plan())
    assert seconds <= Plan().most + 4 * STEP
    assert set(faults(report).values()) == {"untried"}


@pytest.mark.parametrize("preparing", [2.0, 5.0])
def test_a_follower_that_uses_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch, preparing: float
) -> None:
    """Both sides make their files slowly, and the follower goes on until its time is over."""

    class Slow(Follower):
        end = math.inf

        def receive(self, within: float) -> Body:
            if self.request["do"] in {"hello", "report"}:
                return super().receive(within)
            if not self.began:
                self.end = world.clock.now + self.request["within"]
                world.clock.now += min(preparing, self.request["within"])
                return {}
            world.clock.now = max(world.clock.now, self.end)
            return {"error": "x: no time", "late": True}

    monkeypatch.setattr(sys.modules[__name__], "Follower", Slow)
    world.preparing = preparing
    _, seconds = lead(world, Plan())
    assert seconds <= Plan().most + 4 * STEP


def test_a_slow_greeting_makes_no_endless_limits(world: World) -> None:
    world.greeting = 3.0
    report, seconds = lead(world, Plan())
    assert 1.2 < report["limit"] <= 4.0
    assert seconds <= Plan().most


def test_who_asks_for_more_time_gets_it(world: World) -> None:
    plan = Plan(seconds=600.0)
    report, seconds = lead(world, plan)
    assert 300 < seconds <= plan.most
    assert set(faults(report).values()) == {None}


def test_an_untried_second_try_leaves_the_first(world: World) -> None:
    """What was doubtful, and cannot be tried again."""
    world.seconds["echo"], world.stall = 12.0, STALE | {"server_has": 0}
    report, seconds = lead(world, Plan())
    assert faults(report)[HOST.access] == "unwritten"
    assert seconds <= Plan().most + 4 * STEP


def test_a_budget_keeps_what_is_reserved() -> None:
    clock = Clock()
    budget = Budget(10.0, Patience(clock))
    assert budget.take(4.0, reserved=6.0) == 4.0
    clock.now += 1.0
    with pytest.raises(OutOfTime):
        budget.take(4.0, reserved=6.0)
    assert budget.left() == 9.0


def test_real_doctors_that_have_no_time_for_all(doctors: Start, place: Path) -> None:
    """Both sides of an exercise end, and the report is the same on both."""
    reads = {name: named(name, StaleRead) for name in pair.READS}
    plan = Plan(seconds=0.5, ring=2 << 20, limit=0.5, reads=reads, most=4.0)
    report = examine(doctors, place, plan, plan)
    found = list(faults(report).values())
    assert found[0] == "unread"
    assert found[-1] == "untried"
    assert report["automatic"] != AUTO
