"""Verdicts on one host."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.doctor import judges
from muxfs.doctor.findings import Finding, Verdict, worst
from muxfs.doctor.locks import Answer
from muxfs.doctor.space import Quota, Space
from muxfs.doctor.statistics import Summary
from muxfs.storage.filesystem import UNKNOWN, Filesystem

MIB = 1 << 20
FAST = Summary(100, 0.0002, 0.001, 0.002)


def nfs(*options: str) -> Filesystem:
    return Filesystem("nfs4", "nas:/home", "/home", ("rw", *options))


@pytest.mark.parametrize(
    ("mode", "other", "verdict"),
    [
        (0o40700, 0, Verdict.OK),
        (0o40755, 0, Verdict.OK),
        (0o40770, 0, Verdict.WARNING),
        (0o40777, 0, Verdict.WARNING),
        (0o40700, 1, Verdict.WARNING),
    ],
)
def test_directories(mode: int, other: int, verdict: Verdict) -> None:
    finding = judges.judge_directory(mode, os.geteuid() + other, made=False)
    assert finding.verdict is verdict
    assert finding.found.startswith(f"mode 0{mode & 0o777:o}, ")


@pytest.mark.parametrize(
    ("filesystem", "verdict"),
    [
        (nfs(), Verdict.OK),
        (Filesystem("ext4", "/dev/sda", "/"), Verdict.WARNING),
        (Filesystem("tmpfs", "tmpfs", "/"), Verdict.WARNING),
        (Filesystem("newfs", "srv", "/"), Verdict.WARNING),
        (UNKNOWN, Verdict.WARNING),
    ],
)
def test_filesystems(filesystem: Filesystem, verdict: Verdict) -> None:
    finding = judges.judge_filesystem(filesystem, "direct+dsync")
    assert finding.verdict is verdict
    assert "direct+dsync" in finding.found
    assert bool(finding.advice) == (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("options", "verdict", "word"),
    [
        ((), Verdict.OK, "nothing"),
        (("hard", "local_lock=none"), Verdict.OK, "nothing"),
        (("ro",), Verdict.PROBLEM, "read-only"),
        (("soft",), Verdict.WARNING, "hard"),
        (("soft", "ro"), Verdict.PROBLEM, "read-only"),
        (("noac",), Verdict.OK, "not needed"),
        (("local_lock=all",), Verdict.OK, "this host only"),
        (("cache=loose",), Verdict.WARNING, "--peer"),
    ],
)
def test_mount_options(options: tuple[str, ...], verdict: Verdict, word: str) -> None:
    finding = judges.judge_options(nfs(*options))
    assert finding.verdict is verdict
    assert word in f"{finding.found} {finding.advice}"


@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 40)), max_size=2),
)
def test_space(free: int, quotas: list[tuple[int, int]]) -> None:
    """What is least counts, be it the disk or a quota."""
    found = tuple(Quota("user", used, limit) for used, limit in quotas)
    finding = judges.judge_space(Space(free, 1000, found, told=True), 16 * MIB)
    least = min([free, *(max(0, limit - used) for used, limit in quotas)])
    if least < 32 * MIB:
        assert finding.verdict is Verdict.PROBLEM
        assert "32.0 MiB" in finding.advice
    else:
        assert finding.verdict is (Verdict.WARNING if least < 64 * MIB else Verdict.OK)


def test_no_inodes() -> None:
    assert judges.judge_space(Space(1 << 40, 0, (), told=True), MIB).verdict is Verdict.PROBLEM
    assert judges.judge_space(Space(1 << 40, None, (), told=True), MIB).verdict is Verdict.OK


def test_what_is_not_told() -> None:
    assert "quota not told" in judges.judge_space(Space(1 << 40, 1, (), told=False), MIB).found
    assert "no quota" in judges.judge_space(Space(1 << 40, 1, (), told=True), MIB).found
    finding = judges.judge_space(Space(None, None, (), told=True), MIB)
    assert finding.verdict is Verdict.OK
    assert finding.found == "free space not told, no quota"
    quotas = (Quota("user", 10 * MIB, 11 * MIB),)
    finding = judges.judge_space(Space(None, None, quotas, told=True), MIB)
    assert finding.verdict is Verdict.PROBLEM


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EPERM, "root_squash"),
        (errno.EIO, "another directory"),
    ],
)
def test_refusals(number: int, word: str) -> None:
    finding = judges.judge_refusal(OSError(number, os.strerror(number), "/home/x"))
    assert finding.verdict is Verdict.PROBLEM
    assert word in finding.advice
    assert "/home/x" in finding.found
    assert finding.facts == {"error": errno.errorcode[number]}


@pytest.mark.parametrize(
    ("timing", "verdict"),
    [
        (FAST, Verdict.OK),
        (Summary(10, 0.2, 0.3, 0.3), Verdict.WARNING),
        (Summary(10, 0.001, 2.0, 2.0), Verdict.WARNING),
        (OSError(errno.EINVAL, "Invalid argument"), Verdict.PROBLEM),
    ],
)
def test_writing(timing: judges.Timing, verdict: Verdict) -> None:
    finding = judges.judge_writing({"dsync": timing, "close": FAST}, "dsync")
    assert finding.verdict is verdict
    assert judges.judge_writing({"close": timing, "dsync": FAST}, "dsync").verdict is Verdict.OK


def test_reading() -> None:
    timings = {"direct": FAST, "held": FAST}
    assert "refused" not in judges.judge_reading(timings, "direct", direct=True).found
    finding = judges.judge_reading(timings, "direct", direct=False)
    assert finding.verdict is Verdict.OK
    assert "direct does as dontneed does" in finding.found


def test_a_slow_disk() -> None:
    assert judges.judge_filling(16 * MIB, 1.0).verdict is Verdict.OK
    assert judges.judge_filling(16 * MIB, 60.0).verdict is Verdict.WARNING


@pytest.mark.parametrize("first", list(Answer))
@pytest.mark.parametrize("second", [None, *Answer])
def test_locks(first: Answer, second: Answer | None) -> None:
    """They are no problem of muxfs, whatever they do."""
    finding = judges.judge_locks(first, second)
    works = (first, second) == (Answer.GRANTED, Answer.REFUSED)
    assert finding.verdict is (Verdict.OK if works else Verdict.WARNING)
    assert works or "muxfs uses none" in finding.advice


@given(st.lists(st.sampled_from(list(Verdict))))
def test_the_worst(verdicts: list[Verdict]) -> None:
    found = worst(Finding("x", verdict, "") for verdict in verdicts)
    assert (found is Verdict.PROBLEM) == (Verdict.PROBLEM in verdicts)
    assert (found is Verdict.OK) == (set(verdicts) <= {Verdict.OK})
