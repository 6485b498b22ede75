"""Two whole sides on the worst storage that protocol.md allows: never a wrong byte, always an end.

Each page of each read may be any of its last six versions, also going backwards;
writes are torn, fail, and take earlier ones with them; files are deleted, cut and
overwritten; both sides are killed and started at any time; time passes in small
and large steps. The promises are checked by `tests.core.machine` at every step, and
at the end of each run all faults stop: then everything must arrive.

`MUXFS_FUZZ=thorough pytest tests/core/test_sessions_on_bad_storage.py` runs for many
minutes. The default is a small sample, and the same each time.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from muxfs.core import inbound
from muxfs.core.wire import PAGE, Role
from tests.core.machine import (
    DAMAGES,
    PAUSES,
    SIZES,
    STALENESS,
    VERSIONS,
    Chances,
    End,
    Process,
    World,
    configs_of,
    explore,
    serve,
)

THOROUGH = os.environ.get("MUXFS_FUZZ") == "thorough"
FUZZ = settings(
    max_examples=3000 if THOROUGH else 80,
    stateful_step_count=200 if THOROUGH else 50,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=list(HealthCheck),
)
SCHEDULES = 20_000 if THOROUGH else 150


@pytest.fixture(params=["headers", "guesses"], autouse=True)
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read ahead of small batches, too, as they are in rings as small as these, in either way."""
    monkeypatch.setattr(inbound, "LEAST_AHEAD", PAGE)
    if request.param == "guesses":
        monkeypatch.setattr(inbound, "WORTH_GUESSING", 0)


seeds = st.integers(0, 2**32 - 1)
numbers = st.integers(0, 7)
roles = st.sampled_from(Role)


class BadStorage(RuleBasedStateMachine):
    """One process of each role, and every fault of the storage."""

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        self.world = World.of(configs_of(random.Random(seed)), seed)

    def process(self, role: Role, number: int) -> Process | None:
        alive = self.world.alive(role)
        return alive[number % len(alive)] if alive else None

    def end(self, role: Role, number: int) -> tuple[Process, End] | tuple[None, None]:
        process = self.process(role, 0)
        ends = list(process.ends.values())[-8:] if process else []
        return (process, ends[number % len(ends)]) if process and ends else (None, None)

    # Lives

    @rule(role=roles)
    def start(self, role: Role) -> None:
        if not self.world.alive(role):
            self.world.start(role)

    @rule(role=roles, number=numbers, seed=seeds)
    def kill(self, role: Role, number: int, seed: int) -> None:
        if process := self.process(role, number):
            self.world.kill(process, random.Random(seed))

    @rule(role=roles, number=numbers)
    def close(self, role: Role, number: int) -> None:
        if process := self.process(role, number):
            process.close()

    # Files

    @rule(role=roles, number=numbers, begun=st.integers(0, 3), ended=st.none() | numbers)
    def write(self, role: Role, number: int, begun: int, ended: int | None) -> None:
        if process := self.process(role, number):
            for _ in range(begun):
                process.begin_write()
            if ended is not None:
                process.end_write(ended)

    @rule(seed=seeds)
    def land(self, seed: int) -> None:
        self.world.land(random.Random(seed))

    @rule(role=roles, number=numbers, seed=seeds)
    def show_part(self, role: Role, number: int, seed: int) -> None:
        if process := self.process(role, number):
            process.show_part(random.Random(seed))

    @rule(role=roles, number=numbers, seed=seeds, lost=st.integers(0, VERSIONS - 1))
    def fail_write(self, role: Role, number: int, seed: int, lost: int) -> None:
        if process := self.process(role, number):
            process.fail_write(random.Random(seed), lost)

    @rule(role=roles, number=numbers, begun=st.integers(0, 4), ended=st.none() | numbers)
    def read(self, role: Role, number: int, begun: int, ended: int | None) -> None:
        if process := self.process(role, number):
            process.begin_read(begun)
            if ended is not None:
                process.end_read(ended)

    @rule(role=roles, number=numbers)
    def look_after_files(self, role: Role, number: int) -> None:
        if process := self.process(role, number):
            process.look_after_files()

    @rule(role=roles, how=st.sampled_from(DAMAGES), seed=seeds)
    def damage(self, role: Role, how: str, seed: int) -> None:
        self.world.damage(role, how, random.Random(seed))

    @rule(stale=st.sampled_from(STALENESS))
    def age(self, stale: float) -> None:
        self.world.stale = stale

    # Applications

    @rule(role=roles, number=numbers)
    def open(self, role: Role, number: int) -> None:
        if process := self.process(role, number):
            process.open()

    @rule(role=roles, number=numbers, length=st.sampled_from(SIZES))
    def send(self, role: Role, number: int, length: int) -> None:
        process, end = self.end(role, number)
        if process and end:
            process.send(end, length)

    @rule(role=roles, number=numbers)
    def flood(self, role: Role, number: int) -> None:
        if process := self.process(role, number):
            process.flood()

    @rule(role=roles, number=numbers, pieces=st.sampled_from((3, 30, 300)))
    def drip(self, role: Role, number: int, pieces: int) -> None:
        process, end = self.end(role, number)
        if process and end:
            process.drip(end, pieces)

    @rule(role=roles, number=numbers, most=st.sampled_from(SIZES))
    def take(self, role: Role, number: int, most: int) -> None:
        process, end = self.end(role, number)
        if process and end:
            process.take(end, most)

    @rule(role=roles, number=numbers, accepted=st.booleans())
    def answer(self, role: Role, number: int, accepted: bool) -> None:
        process, end = self.end(role, number)
        if process and end:
            (process.accept if accepted else process.refuse)(end)

    @rule(role=roles, number=numbers, how=st.sampled_from(("finish", "abort", "close_stream")))
    def part(self, role: Role, number: int, how: str) -> None:
        process, end = self.end(role, number)
        if process and end:
            getattr(process, how)(end)

    # Time

    @rule(seconds=st.sampled_from(PAUSES))
    def pause(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(seconds=st.sampled_from((0.1, 0.5, 3.0)), served=st.booleans())
    def run(self, seconds: float, served: bool) -> None:
        self.world.run(seconds, serve if served else None)

    @precondition(lambda self: self.world.established)
    @rule()
    def settle(self) -> None:
        self.world.settle()

    @invariant()
    def promises(self) -> None:
        for process in list(self.world.processes):
            process.look()
        self.world.reap()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


class Twins(BadStorage):
    """Several live processes of one role: one wins, and the others end by themselves."""

    @rule(role=roles)
    def start_another(self, role: Role) -> None:
        if len(self.world.alive(role)) < 3:
            self.world.start(role)

    def end(self, role: Role, number: int) -> tuple[Process, End] | tuple[None, None]:
        process = self.process(role, number)
        ends = list(process.ends.values())[-8:] if process else []
        return (process, ends[number % len(ends)]) if process and ends else (None, None)


def test_two_sides() -> None:
    run_state_machine_as_test(BadStorage, settings=FUZZ)


def test_two_sides_and_their_twins() -> None:
    run_state_machine_as_test(Twins, settings=FUZZ)


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("twins", [False, True], ids=["alone", "twins"])
def test_random_schedules(part: int, twins: bool) -> None:
    """The same steps by chance alone: many more of them, and longer."""
    chances = Chances(twins=twins)
    for seed in range(part * SCHEDULES // 10, (part + 1) * SCHEDULES // 10):
        explore(seed, 400 if THOROUGH else 150, chances)
