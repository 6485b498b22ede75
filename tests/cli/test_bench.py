"""`muxfs bench` as real processes."""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from muxfs.cli import measuring, tunnel
from muxfs.cli.patience import Unanswered
from muxfs.config import SessionConfig
from muxfs.sealing.files import create_key
from tests.commands import PATIENCE, Runner

QUICK = ("--time", "500ms", "--ring", "1M")
UNAVAILABLE = 69


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="muxfs-bench-") as name:
        yield Path(name)


def test_on_one_host(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("bench", str(place / "job"), *QUICK, "--json")
    assert command.process.returncode == 0, command.lines
    (found,) = command.events
    assert found["one_host"]
    assert found["hosts"][0] == found["hosts"][1]
    assert found["ring"] == 1 << 20
    assert not found["sealed"]
    for work in ("echo", "echo_beside_bulk", "short_streams"):
        times = found[work]
        assert times["count"] >= 1
        assert 0 < times["p50"] <= times["p99"] <= times["most"]
        assert times["operations"] > 0
    assert all(rate > 0 for rate in found["rates"])
    assert list(place.iterdir()) == []


def test_two_of_them(muxfs: Runner, place: Path) -> None:
    """One prints for people and one for programs, and both the same result."""
    key = place / "key"
    create_key(str(key))
    options = ("--peer", *QUICK, "--key-file", str(key))
    words = muxfs.start("bench", str(place / "job"), *options)
    words.says(f"run there:   muxfs bench {place}/job --peer")
    programs = muxfs.start("bench", str(place / "job"), *options, "--json")
    assert (words.wait(), programs.wait()) == (0, 0), (words.lines, programs.lines)
    (found,) = programs.events
    assert found["sealed"]
    out = "\n".join(words.lines["stdout"])
    assert f"({found['echo']['count']}; " in out
    assert "memory+memory, encrypted" in out
    assert "Both ends ran on one host" in out
    assert list(place.iterdir()) == [key]


def test_nobody_comes(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("bench", str(place / "job"), "--peer", "--wait", "500ms")
    assert command.process.returncode == UNAVAILABLE
    assert f"no other muxfs bench came to {place}/job" in command.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_waiting(muxfs: Runner, place: Path, number: int) -> None:
    command = muxfs.start("bench", str(place / "job"), "--peer")
    command.says("waiting")
    assert command.end(number) == 128 + number
    assert list(place.iterdir()) == []


def test_interrupted_at_work(muxfs: Runner, place: Path) -> None:
    """The other one says so; who comes last leaves nothing."""
    options = ("--peer", "--time", "10m", "--ring", "1M")
    two = [muxfs.start("bench", str(place / "job"), *options) for _ in range(2)]
    for command in two:
        command.says("the other one is there")
    (follower,) = (command for command in two if "and measures" in command.stderr)
    (leader,) = (command for command in two if command is not follower)
    assert leader.end(signal.SIGTERM) == 143
    assert follower.wait() == UNAVAILABLE
    assert "the other one vanished; run it again on both hosts" in follower.stderr
    assert list(place.iterdir()) == []


def test_a_wrong_key(muxfs: Runner, place: Path) -> None:
    command = muxfs.run("bench", str(place / "job"), "--key-file", str(place / "missing"))
    assert command.process.returncode != 0
    assert "missing" in command.stderr
    assert json.dumps(command.lines["stdout"]) == "[]"
    assert list(place.iterdir()) == []


async def test_a_file_server_that_hangs_before_two_have_met(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()

    def hang(*_: object) -> None:
        back.wait(PATIENCE)

    monkeypatch.setattr(measuring, "STILL", 1.0)
    monkeypatch.setattr(measuring, "ProbeDirectory", hang)
    args = argparse.Namespace(insecure_dir=False, peer=True)
    run = measuring.Measurement(args, tunnel.resolve(str(place / "job")), SessionConfig())
    with trio.fail_after(PATIENCE), pytest.raises(Unanswered):
        async with measuring._met(run):
            pass
    back.set()
