"""Two doctors on one directory, with strategies that fail on purpose."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from muxfs.doctor import channel, pair
from muxfs.doctor.channel import Vanished
from muxfs.doctor.exercises import _note
from muxfs.doctor.pair import Plan
from muxfs.doctor.patience import Halted
from muxfs.doctor.probes import STALE_AFTER
from muxfs.doctor.slots import SLOT_SIZE, encode
from muxfs.storage.access import DirectRead, DontneedRead, DsyncWrite, HeldRead
from muxfs.storage.filesystem import Filesystem

from .conftest import ALL_READS, ALL_WRITES, NETWORK, Start

QUICK = Plan(seconds=0.5, ring=2 << 20, limit=0.5)


class StaleRead(HeldRead):
    """Shows for ever what it has once seen at a place."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, int], bytes] = {}

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        key = (os.fstat(descriptor).st_ino, offset, length)
        return self._seen.setdefault(key, super().read(descriptor, offset, length))


class LostWrite(DsyncWrite):
    """Keeps what is written for itself, once the file is made."""

    def write(self, descriptor: int, offset: int, buffers: Sequence[Any]) -> None:
        if any(bytes(buffer).strip(b"\0") for buffer in buffers):
            return
        super().write(descriptor, offset, buffers)


class RefusedRead(HeldRead):
    """Cannot be had here."""

    def open(self, path: str, flags: int) -> int:
        raise OSError(22, "Invalid argument")


def named(name: str, strategy: type[Any]) -> type[Any]:
    return type(strategy.__name__, (strategy,), {"name": name})


def outcome(report: dict[str, Any], access: str) -> Any:
    (trial,) = [trial for trial in report["trials"] if trial["access"] == access]
    return "passed" if trial["passed"] else trial["fault"]


def examine(doctors: Start, place: Path, *plans: Plan) -> dict[str, Any]:
    two = doctors(*(plans or (QUICK, QUICK)))
    report, same = (doctor.result() for doctor in two)
    assert report == same
    # both tell what they do; the follower not what the leader cannot begin
    assert min(two[0].steps, two[1].steps, key=len)[-1] == "done"
    assert set(two[0].steps) <= set(two[1].steps) or set(two[0].steps) >= set(two[1].steps)
    assert os.listdir(place) == []
    return report


def test_all_is_well(doctors: Start, place: Path) -> None:
    report = examine(doctors, place)
    assert report["recommendation"]["access"] == "auto"
    assert report["automatic"] == "direct+dsync"
    assert report["one_kernel"]
    assert report["locks"] in {"exclusive", "separate"}  # of one process: POSIX gives it again
    assert report["torn"]["reads"] > 0
    assert all(speed > 0 for speed in report["streams"])
    accesses = [trial["access"] for trial in report["trials"]]
    assert len(accesses) == len(set(accesses))
    reads = {access.partition("+")[0] for access in accesses}
    writes = {access.partition("+")[2] for access in accesses}
    assert reads == {"direct", "dontneed", "statx", "reopen", "held"}
    assert writes == {"dsync", "fdatasync", "close", "plain"}
    for trial in report["trials"]:
        assert trial["passed"], trial
        assert trial["round_trip"]["count"] >= 2
        assert sum(trial["histogram"]) == 2 * trial["there"]["count"]


def test_the_automatic_choice_is_stale(doctors: Start, place: Path) -> None:
    """The other ways are found; what was seen past the cache convicts the reader."""
    plan = attrs.evolve(QUICK, reads={**ALL_READS, "direct": named("direct", StaleRead)})
    report = examine(doctors, place, plan, plan)
    assert outcome(report, "direct+dsync") == "unread"
    assert outcome(report, "dontneed+dsync") == "passed"
    recommendation = report["recommendation"]
    assert recommendation["access"] in {"dontneed+dsync", "statx+dsync"}
    assert recommendation["verdict"] == "warning"
    # and these are then used for all the rest
    assert report["torn"]["reads"] > 0


def test_one_host_alone_is_stale(doctors: Start, place: Path) -> None:
    stale = attrs.evolve(QUICK, reads={**ALL_READS, "reopen": named("reopen", StaleRead)})
    for plans in [(QUICK, stale), (stale, QUICK)]:
        report = examine(doctors, place, *plans)
        assert outcome(report, "reopen+dsync") == "unread"
        assert report["recommendation"]["access"] == "auto"


def test_writes_that_stay_on_their_host(doctors: Start, place: Path) -> None:
    plan = attrs.evolve(QUICK, writes={**ALL_WRITES, "plain": named("plain", LostWrite)})
    report = examine(doctors, place, plan, plan)
    assert outcome(report, "direct+plain") == "unwritten"
    assert report["recommendation"]["access"] == "auto"


def test_the_automatic_write_is_lost(doctors: Start, place: Path) -> None:
    plan = attrs.evolve(QUICK, writes={**ALL_WRITES, "dsync": named("dsync", LostWrite)})
    report = examine(doctors, place, plan, plan)
    assert outcome(report, "direct+dsync") == "unwritten"
    assert report["recommendation"]["access"] in {"direct+fdatasync", "direct+close"}


def test_nothing_is_ever_seen(doctors: Start, place: Path) -> None:
    reads = {name: named(name, StaleRead) for name in ALL_READS}
    plan = attrs.evolve(QUICK, reads=reads)
    report = examine(doctors, place, plan, plan)
    assert report["recommendation"]["access"] is None
    assert report["recommendation"]["verdict"] == "problem"
    assert report["torn"] is None
    assert report["streams"] == [None, None]


def test_each_host_has_its_own_choice(doctors: Start, place: Path) -> None:
    """As where the one is the file server of the other."""
    local = Filesystem("ext4", "/dev/sda", "/nowhere")
    two = doctors(QUICK, QUICK, filesystems=(NETWORK, local))
    report, _ = (doctor.result() for doctor in two)
    assert report["automatic"] == report["trials"][0]["access"] == "auto"
    assert sorted(report["trials"][0]["names"]) == ["cached+plain", "direct+dsync"]
    assert {host["access"] for host in report["hosts"]} == {"cached+plain", "direct+dsync"}
    # the others are tried with the surest way to write, though plain passes here, too
    assert {"dontneed+dsync", "held+dsync"} <= {trial["access"] for trial in report["trials"]}
    assert report["recommendation"]["access"] == "auto"


def test_another_version(place: Path) -> None:
    class Other:
        def receive(self, _within: float) -> dict[str, Any]:
            return {"do": "hello", "format": pair.CONVERSATION + 1, "step": "", "done": 0.0}

    side = attrs.make_class("Side", {"leads": attrs.field(default=False)})()
    follower = pair.Pair(Other(), side, QUICK, None, lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(Vanished, match="different versions of muxfs"):
        follower.work()


def test_long_exercises_note_a_part() -> None:
    times: dict[int, float] = {}
    for number in range(1, 200_000):
        _note(times, number, 12345.678901234567)
    assert set(range(1, 1000)) < set(times)
    half = SLOT_SIZE // 2  # both what was sent and what was seen must fit
    assert len(encode({"sent": list(times.items())})) < half


def test_a_strategy_that_is_refused(doctors: Start, place: Path) -> None:
    refusing = attrs.evolve(QUICK, reads={**ALL_READS, "statx": named("statx", RefusedRead)})
    for plans in [(QUICK, refusing), (refusing, QUICK)]:
        report = examine(doctors, place, *plans)
        assert outcome(report, "statx+dsync") == "failed"
        assert report["recommendation"]["access"] == "auto"


def test_the_other_one_is_interrupted(doctors: Start, place: Path) -> None:
    long = Plan(seconds=600.0, ring=QUICK.ring, limit=QUICK.limit)
    one, other = doctors(long, long)
    one.working()
    one.patience.halt()
    with pytest.raises(Halted):
        one.result()
    with pytest.raises(Vanished, match="the other doctor ended: it was interrupted"):
        other.result()
    assert os.listdir(place) == []


def test_the_other_one_vanishes(
    doctors: Start, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it was killed: it neither beats nor answers nor says anything any more."""
    monkeypatch.setattr(channel, "SILENCE", 1.0)
    stopped = threading.Event()
    put = channel.Channel._put

    def put_until_stopped(self: Any, **changes: object) -> None:
        if not (stopped.is_set() and self._meeting.leads):
            put(self, **changes)

    monkeypatch.setattr(channel.Channel, "_put", put_until_stopped)
    two = doctors(QUICK, QUICK)
    for doctor in two:
        doctor.working()
    stopped.set()
    ends = []
    for doctor in two:
        with pytest.raises(Vanished) as caught:
            doctor.result()
        ends.append(str(caught.value))
    assert "the other doctor gives no sign of life for 1 s" in ends


def test_the_follower_is_gone_before_the_leader_looks(
    doctors: Start, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a file that its owner has removed cannot be read: by then both have the report."""
    read, receive = channel.read_document, channel.Channel.receive
    reported = threading.Event()

    def receive_with_the_report(self: Any, within: float) -> channel.Body:
        body = receive(self, within)
        if body.get("do") == "report":
            reported.set()
        return body

    def read_unless_removed(probe: Any) -> Any:
        if reported.is_set():
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(probe)

    monkeypatch.setattr(channel.Channel, "receive", receive_with_the_report)
    monkeypatch.setattr(channel, "read_document", read_unless_removed)
    one, other = doctors(QUICK, QUICK)
    assert one.result() == other.result()


def test_what_a_killed_doctor_left_goes_away(doctors: Start, place: Path) -> None:
    left = place / "doctor"
    left.mkdir()
    old, young = left / "0123456789abcdef-3", left / "fedcba9876543210-3"
    old.write_bytes(bytes(4096))
    young.write_bytes(bytes(4096))
    past = time.clock_gettime(time.CLOCK_REALTIME) - 2 * STALE_AFTER
    os.utime(old, (past, past))
    for doctor in doctors(QUICK, QUICK):
        doctor.result()
    assert os.listdir(left) == [young.name]  # it may still be at work


def test_strategies_are_what_they_are_called() -> None:
    """What the fakes above stand in for."""
    assert ALL_READS["direct"] is DirectRead
    assert ALL_READS["dontneed"] is DontneedRead
    assert ALL_WRITES["dsync"] is DsyncWrite
