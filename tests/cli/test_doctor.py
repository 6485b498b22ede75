"""`muxfs doctor` as a real process, and two of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from muxfs.cli.diagnosis import finding_lines, report_lines
from muxfs.cli.layout import Paper, columns
from muxfs.doctor.findings import Finding, Verdict
from tests.commands import Command, Runner

QUICK = ("--peer", "--time", "1s", "--ring", "1M")
UNAVAILABLE = 69


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="muxfs-doctor-") as name:
        yield Path(name)


def report(command: Command) -> dict[str, Any]:
    (line,) = command.lines["stdout"]
    return dict(json.loads(line))


def test_one_host(muxfs: Runner) -> None:
    command = muxfs.run("doctor", "job")
    out = "\n".join(command.lines["stdout"])
    assert command.process.returncode == 0, command.lines
    for name in ("directory", "filesystem", "mount", "space", "files", "write", "read", "locks"):
        assert f"  {name:<10} " in out
    assert "run on both:   muxfs doctor" in out
    assert "\x1b" not in out  # no terminal, no colours
    assert not muxfs.home.exists()


def test_one_host_for_programs(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("doctor", str(place), "--json")
    found = report(command)
    assert found["verdict"] == "warning"  # a filesystem of this host alone
    assert found["path"] == str(place)
    assert found["pair"] is None
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert findings["filesystem"]["facts"]["type"] == "tmpfs"
    assert findings["write"]["facts"]["dsync"]["median_ms"] > 0
    assert command.stderr == ""
    assert list(place.iterdir()) == []


def test_the_directory_stays_if_it_was_there(muxfs: Runner, place: Path) -> None:
    (place / "job").mkdir(0o700)
    muxfs.run("doctor", str(place / "job"))
    assert list((place / "job").iterdir()) == []


def test_two_of_them(muxfs: Runner, place: Path) -> None:
    words = muxfs.start("doctor", str(place / "job"), *QUICK)
    words.says(f"run there:   muxfs doctor {place}/job --peer")
    programs = muxfs.start("doctor", str(place / "job"), *QUICK, "--json")
    assert (words.wait(), programs.wait()) == (0, 0), (words.lines, programs.lines)
    found = report(programs)
    pair = found["pair"]
    assert pair["one_kernel"]
    assert pair["automatic"] == "memory+memory"
    assert pair["recommendation"] == {
        "verdict": "ok",
        "access": "auto",
        "words": "the automatic choice is right: no --access needed",
    }
    assert pair["locks"] == "exclusive"
    assert all(trial["passed"] for trial in pair["trials"])
    out = "\n".join(words.lines["stdout"])
    assert out.count("recommended: ") == 1
    assert "recommended: the automatic choice is right: no --access needed" in out
    assert "says nothing of two hosts" in out
    assert "memory+memory*" in out
    assert "How soon the other host sees a write by memory+memory" in out
    assert list(place.iterdir()) == []


def test_nobody_comes(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("doctor", str(place / "job"), "--peer", "--wait", "500ms")
    assert command.process.returncode == UNAVAILABLE
    assert f"no other doctor came to {place}/job within 500 ms" in command.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_waiting(muxfs: Runner, place: Path, number: int) -> None:
    command = muxfs.start("doctor", str(place / "job"), "--peer")
    command.says("waiting")
    assert command.end(number) == 128 + number
    assert list(place.iterdir()) == []


def meet(muxfs: Runner, path: Path, program: Sequence[str] = ("-m", "muxfs")) -> list[Command]:
    """Start two that measure for long, and wait until they do."""
    options = ("--peer", "--time", "10m")
    two = [muxfs.start("doctor", str(path), *options, program=program) for _ in range(2)]
    for command in two:
        command.says("measuring")
    return two


def test_interrupted_at_work(muxfs: Runner, place: Path) -> None:
    one, other = meet(muxfs, place / "job")
    assert one.end(signal.SIGINT) == 130
    assert other.wait() == UNAVAILABLE
    assert "the other doctor ended: it was interrupted; run it again" in other.stderr
    assert list(place.iterdir()) == []


def test_after_a_killed_one(muxfs: Runner, place: Path) -> None:
    """The other one says so, and the next two are not disturbed by what it left."""
    impatient = "import muxfs.doctor.channel as c, muxfs.cli; c.SILENCE = 2.0; muxfs.cli.main()"
    one, other = meet(muxfs, place / "job", ("-c", impatient))
    one.process.kill()
    assert other.wait() == UNAVAILABLE
    assert "the other doctor gives no sign of life for 2 s" in other.stderr
    assert any(place.glob("job/doctor/slot-*"))
    two = [muxfs.start("doctor", str(place / "job"), *QUICK) for _ in range(2)]
    assert [command.wait() for command in two] == [0, 0], [command.lines for command in two]


# Where muxfs cannot work


def test_no_such_directory(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("doctor", str(place / "no/job"))
    assert command.process.returncode == 66
    assert f"no such directory: {place}/no" in command.stderr


def test_a_directory_of_all(muxfs: Runner, place: Path) -> None:
    (place / "job").mkdir()
    (place / "job").chmod(0o777)
    command = muxfs.run("doctor", str(place / "job"), *QUICK)
    assert command.process.returncode == 1
    out = "\n".join(command.lines["stdout"])
    assert "problem  directory  other users can write to" in out
    assert "chmod go-w" in out
    assert muxfs.run("doctor", str(place / "job"), "--insecure-dir").process.returncode == 0


def mounted(path: Path, *options: str) -> None:
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "muxfs-test", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a filesystem can be mounted only by root")


def test_a_full_disk(muxfs: Runner, place: Path) -> None:
    mounted(place / "small", "size=1m", "mode=0700")
    try:
        for options in [(), ("--peer",)]:
            command = muxfs.run("doctor", str(place / "small"), *options)
            assert command.process.returncode == 1
            out = "\n".join(command.lines["stdout"])
            assert "problem  space      1.0 MiB free" in out
        assert "problem  files" not in out  # two are not asked to meet where there is no room
        assert list((place / "small").iterdir()) == []
    finally:
        subprocess.run(["umount", str(place / "small")], check=True)


def test_a_read_only_filesystem(muxfs: Runner, place: Path) -> None:
    mounted(place / "fixed", "ro", "mode=0700")
    try:
        command = muxfs.run("doctor", str(place / "fixed"))
        assert command.process.returncode == 1
        out = "\n".join(command.lines["stdout"])
        assert "problem  mount      mounted read-only" in out
        assert "problem  files      cannot make files: Read-only file system" in out
    finally:
        subprocess.run(["umount", str(place / "fixed")], check=True)


def test_a_limit_of_file_size(place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "muxfs", "doctor", str(place)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot make files: File too large" in done.stdout
    assert os.listdir(place) == []


# Words


def trial(access: str, **facts: object) -> dict[str, object]:
    summary = {"count": 2, "median_ms": 2.0, "p99_ms": 3.0, "max_ms": 4.0}
    return {
        "access": access,
        "names": [access, access],
        "passed": True,
        "fault": None,
        "error": "",
        "round_trip": summary,
        "there": summary,
        "back": summary,
        "histogram": [0] * 6 + [1, 3] + [0] * 11,
        "poll_ms": 0.5,
        "requests_per_poll": {"READ": 1.0},
        **facts,
    }


def pair(*trials: object, **facts: object) -> dict[str, Any]:
    host = {"name": "a", "process": "boot/ns/12/3", "filesystem": "nfs4", "access": "direct+dsync"}
    return {
        "hosts": [host, {**host, "name": "b\x1b[2J"}],
        "one_kernel": False,
        "limit": 1.2,
        "automatic": "direct+dsync",
        "trials": list(trials),
        "torn": {"reads": 10, "torn": 1, "tail_first": 1, "within_page": 0},
        "streams": [200 << 20, None],
        "locks": "exclusive",
        "recommendation": {"verdict": "ok", "access": "auto", "words": "all is well"},
        **facts,
    }


def test_the_words_of_each_fault() -> None:
    bad = {"passed": False, "round_trip": None, "there": None, "back": None, "histogram": []}
    lines = list(
        report_lines(
            pair(
                trial("direct+dsync"),
                trial("held+dsync", fault="unread", **bad),
                trial("direct+plain", fault="unwritten", **bad),
                trial("reopen+dsync", fault="slow", **bad),
                trial("statx+dsync", fault="failed", error="a: Invalid\x1b argument", **bad),
            ),
            Paper(),
        )
    )
    text = "\n".join(lines)
    assert "held+dsync     stale: the server had the new bytes" in text
    assert "direct+plain   not seen: what was written had not left" in text
    assert "reopen+dsync   not seen within 1.2 s" in text
    assert "statx+dsync    refused: a: Invalid\\x1b argument" in text
    assert "direct+dsync*      2.0 ms  3.0 ms  2.0 ms  2.0 ms  500 us  1 READ" in text
    assert "A to B 200 MiB/s, B to A no result" in text
    assert lines[-1] == "recommended: all is well"
    assert "\x1b" not in text  # what the other host tells cannot garble the terminal


def test_a_histogram_of_what_is_used() -> None:
    text = "\n".join(report_lines(pair(trial("direct+dsync")), Paper(blocks=True)))
    assert f"  up to 1.0 ms  1  {'█' * 16}\n  up to 2.0 ms  3  {'█' * 48}\n\n" in text
    assert "seen after 500 us .. 2.0 ms" in text


def test_nothing_works() -> None:
    words = {"verdict": "problem", "access": None, "words": "it cannot"}
    found = pair(recommendation=words, torn=None, streams=[None, None])
    assert "recommended: it cannot" in list(report_lines(found, Paper()))


def test_two_kinds_of_filesystem() -> None:
    found = pair(trial("auto", names=["cached+plain", "direct+dsync"]), automatic="auto")
    text = "\n".join(report_lines(found, Paper()))
    assert "* what muxfs chooses by itself: cached+plain on A, direct+dsync on B" in text


def test_colours_are_for_terminals() -> None:
    finding = Finding("space", Verdict.PROBLEM, "none", "make some")
    plain, advice = finding_lines(finding, Paper())
    assert plain == " problem  space      none"
    assert advice.lstrip() == "make some"
    assert plain.index("none") == advice.index("make")
    assert "\x1b[31mproblem" in next(finding_lines(finding, Paper(coloured=True)))


def test_columns() -> None:
    rows = [["name", "n"], ["a longer one", "free text that goes on"], ["x", "10"], ["yy", "5"]]
    assert list(columns(rows, right=frozenset({1})))[2:] == [
        "x             " + "10".rjust(22),
        "yy            " + "5".rjust(22),
    ]
    assert list(columns([["a", "b", "c"], ["failed", "why it is so"]])) == [
        "a       b  c",
        "failed  why it is so",
    ]


def test_sparks() -> None:
    assert Paper(blocks=True).spark([0, 1, 100, 50]) == " ▁█▄"
    assert Paper().spark([0, 1, 8]) == " .%"[:2] + "#"
    assert Paper().spark([]) == ""
    assert Paper().bar(1, 1000, 10) == "#"
    assert Paper().bar(0, 0, 10) == ""
