"""How doctors find each other: on files that each sees late, in any order, killed at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from muxfs.doctor.meeting import DEAD_AFTER, SLOTS, Meeting, Seen, Visitor, decide


@attrs.define
class Shared:
    """Two files whose old contents some still see."""

    now: float = 0.0
    written: dict[str, list[tuple[float, bytes]]] = attrs.field(
        factory=lambda: {name: [] for name in SLOTS}
    )
    hides: bool = False
    """Whether those who looked before a name was made do not see it until it is shown."""
    hidden: dict[str, tuple[str, float]] = attrs.field(factory=dict)
    """By name: who sees it, and since when it is there."""


@attrs.define
class Probes:
    """A ProbeDirectory on `Shared`; `late`: seconds until it sees what others wrote."""

    shared: Shared
    nonce: str
    late: float

    def create(self, name: str, _access: object, _size: int) -> Probe:
        if self.shared.hides and not self.shared.written[name]:
            self.shared.hidden[name] = self.nonce, self.shared.now
        return Probe(self, name)

    def show_names(self) -> None:
        for name, (maker, since) in list(self.shared.hidden.items()):
            # a client is not surprised by changes of its own
            if maker == self.nonce and since < self.shared.now:
                del self.shared.hidden[name]

    def open(self, name: str, _strategy: object) -> Probe | None:
        if self.shared.hidden.get(name, (self.nonce, 0.0))[0] != self.nonce:
            return None
        return Probe(self, name) if Probe(self, name).read(0, 1 << 20) else None

    def leave(self, probe: Probe) -> None:
        pass


@attrs.define
class Probe:
    probes: Probes
    name: str

    @property
    def file(self) -> Any:
        return self

    def close(self) -> None:
        pass

    def write(self, offset: int, data: bytes) -> None:
        assert offset == 0
        shared = self.probes.shared
        shared.written[self.name].append((shared.now, data))

    def read(self, _offset: int, _length: int) -> bytes:
        shared = self.probes.shared
        visible = [d for t, d in shared.written[self.name] if t <= shared.now - self.probes.late]
        return visible[-1] if visible else b""


@attrs.define
class Sim:
    shared: Shared
    visitors: dict[str, Visitor] = attrs.field(factory=dict)
    met: dict[str, Meeting] = attrs.field(factory=dict)

    def add(self, nonce: str, late: float) -> None:
        self.visitors[nonce] = Visitor(Probes(self.shared, nonce, late))  # type: ignore[arg-type]

    def step(self, nonce: str) -> None:
        self.shared.now += 0.1
        if nonce in self.met or nonce not in self.visitors:
            return
        meeting = self.visitors[nonce].step(self.shared.now)
        if meeting is not None:
            self.met[nonce] = meeting

    def settle(self, names: Sequence[str]) -> None:
        for _ in range(400):
            for name in names:
                self.step(name)
            if all(name in self.met for name in names):
                return
        raise AssertionError(f"they did not meet: {self}")


lateness = st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.5])


@given(st.lists(st.sampled_from(["a", "b"]), max_size=60), lateness, lateness, st.booleans())
def test_two_meet_however_they_come(
    order: list[str], late_a: float, late_b: float, hides: bool
) -> None:
    sim = Sim(Shared(hides=hides))
    sim.add("a", late_a)
    sim.add("b", late_b)
    for name in order:
        sim.step(name)
    sim.settle(["a", "b"])
    assert sim.met["a"].peer_nonce == "b"
    assert sim.met["b"].peer_nonce == "a"
    assert sim.met["a"].leads != sim.met["b"].leads


@given(
    st.lists(st.sampled_from(["old", "older", "a", "b"]), max_size=60),
    lateness,
    st.booleans(),
)
def test_what_killed_ones_left_is_in_nobody_s_way(order: list[str], late: float, two: bool) -> None:
    sim = Sim(Shared())
    for name in ("old", "older") if two else ("old",):
        sim.add(name, 0.0)
    for name in order:
        sim.step(name if name.startswith("old") else "old")
    for name in ("old", "older"):  # killed
        sim.visitors.pop(name, None)
        sim.met.pop(name, None)
    sim.add("a", late)
    sim.add("b", 0.0)
    for name in order:
        sim.step(name)
    sim.settle(["a", "b"])
    assert sim.met["a"].peer_nonce == "b"
    assert sim.met["b"].peer_nonce == "a"
    assert sim.met["a"].leads != sim.met["b"].leads


@given(st.lists(st.sampled_from("abc"), max_size=100))
def test_a_third_one_waits(order: list[str]) -> None:
    sim = Sim(Shared())
    for name in "abc":
        sim.add(name, 0.0)
    for name in order:
        sim.step(name)
        pairs = [(n, m.peer_nonce) for n, m in sim.met.items()]
        # who has met another one is met by that one, or by nobody
        assert all((other, name) in pairs or other not in sim.met for name, other in pairs)


def test_a_pair_at_work_is_left_alone() -> None:
    alive = (Seen("a", "b", True), Seen("b", "a", True))
    assert decide("c", None, alive).act == "wait"
    unknown = (Seen("a", "b", None), None)
    assert decide("c", None, unknown).act == "wait"
    assert decide("c", None, (Seen("a", "b", False), Seen("b", "a", False))).slot == 0


def test_who_was_overwritten_goes_elsewhere() -> None:
    assert decide("a", 0, (Seen("b", None, True), None)).act == "leave"
    assert decide("a", 0, (None, None)).act == "leave"


def test_the_dead_are_known_by_their_silence() -> None:
    sim = Sim(Shared())
    sim.add("old", 0.0)
    for _ in range(3):
        sim.step("old")
    del sim.visitors["old"]
    sim.add("a", 0.0)
    start = sim.shared.now
    while not sim.visitors["a"].has_slot:
        sim.step("a")
    assert DEAD_AFTER < sim.shared.now - start < DEAD_AFTER + 1
