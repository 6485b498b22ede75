"""Calls that hang, in commands that have no event loop; and these commands on a dead server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from muxfs.cli import patience
from muxfs.cli.failures import Failure
from muxfs.cli.patience import Answers, Unanswered
from tests.commands import PATIENCE, Command, Runner

AT_ONCE = 0.2
"""Seconds that are long for a call that does not hang, and short for a test."""


@attrs.frozen
class Dead:
    """A file server that hangs until it is back."""

    back: threading.Event = attrs.field(factory=threading.Event)
    asked: list[int] = attrs.field(factory=list)

    def call(self) -> str:
        self.asked.append(threading.get_ident())
        assert self.back.wait(PATIENCE)
        return "back"


@pytest.fixture
def dead() -> Iterator[Dead]:
    server = Dead()
    yield server
    server.back.set()


def threads_of(calls: list[Callable[[], Any]], limit: float = PATIENCE) -> list[Any]:
    answers = Answers(limit).of_all({f"/{at}": call for at, call in enumerate(calls)})
    return [answers[f"/{at}"] for at in range(len(calls))]


def test_what_a_call_returns_and_raises(tmp_path: Path) -> None:
    assert Answers().of("/x", lambda: 5) == 5
    with pytest.raises(FileNotFoundError):
        Answers().of("/x", lambda: os.listdir(tmp_path / "none"))


def test_what_hangs_is_given_up_and_delays_nothing_else(dead: Dead) -> None:
    first, second, third = threads_of([dead.call, lambda: 2, dead.call], AT_ONCE)
    assert second == 2
    for hanging in (first, third):
        assert isinstance(hanging, Unanswered)
        assert hanging.exit_code == os.EX_IOERR
    assert len(set(dead.asked)) == 2


def test_quick_calls_share_a_thread() -> None:
    assert len(set(threads_of([threading.get_ident] * 50))) < 50


def test_what_hangs_is_asked_again_only_after_it_came_back(dead: Dead) -> None:
    answers = Answers(AT_ONCE)
    for _ in range(3):
        with pytest.raises(Unanswered):
            answers.of("/x", dead.call)
    assert len(dead.asked) == 1
    assert answers.of("/y", lambda: 1) == 1
    dead.back.set()
    (hanging,) = (call for call in answers._hanging.values())
    while not hanging.over:
        time.sleep(0.001)
    assert answers.of("/x", lambda: "again") == "again"


def test_what_is_waited_for_is_told_once(
    dead: Dead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "NOTICE", 0.0)
    answers = Answers(AT_ONCE)
    answers.of_all({"/a\x1b": dead.call, "/b": dead.call})
    assert capsys.readouterr().err == "  waiting for an answer from /a\\x1b\n"


def test_no_thread_is_no_harm_as_long_as_another_one_is_at_work(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = threading.Thread.start, [1]

    def start(thread: threading.Thread) -> None:
        if not left:
            dead.back.set()  # the call is slow, and does not hang
            raise RuntimeError("can't start new thread")
        left.pop()
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert threads_of([dead.call, lambda: 2]) == ["back", 2]
    with pytest.raises(Failure, match="can't start new thread"):
        threads_of([int])


# Commands


HANGING = "hanging-tunnel"
PROGRAM = f"""
import os, threading
def hangs(name):
    real = getattr(os, name)
    def call(path, *args, **options):
        if {HANGING!r} in str(path):
            threading.Event().wait()
        return real(path, *args, **options)
    setattr(os, name, call)
hangs("open")
hangs("lstat")
from muxfs.cli import main, patience
patience.Answers.__init__.__defaults__ = (LIMIT,)
main()
"""
"""`muxfs`, to which the filesystem of one tunnel does not answer."""
SENTENCE = "does not answer: its file server hangs or is gone; try again when it is back"


def start(muxfs: Runner, *arguments: str, limit: float = patience.STILL) -> Command:
    return muxfs.start(*arguments, program=("-c", PROGRAM.replace("LIMIT", str(limit))))


@pytest.fixture
def ends(muxfs: Runner) -> tuple[Command, int]:
    """Give the listening end of the tunnel that hangs for others, and its port."""
    listen = muxfs.start("listen", HANGING, "0:1", "--json")
    port = listen.event("listening")["port"]
    muxfs.start("dial", HANGING)
    listen.event("established")
    return listen, port


def test_status_of_one(muxfs: Runner, ends: tuple[Command, int]) -> None:
    """What runs on this host tells about itself all the same."""
    listen, port = ends
    words, programs = (start(muxfs, "status", HANGING, *more) for more in ((), ("--json",)))
    place = muxfs.home / HANGING
    assert (words.wait(), programs.wait()) == (os.EX_IOERR, os.EX_IOERR)
    waiting, sentence = words.lines["stderr"]
    assert waiting.startswith(f"  waiting for an answer from {place}")
    assert sentence.startswith(f"muxfs: the filesystem of {place} ")
    assert SENTENCE in sentence
    first, ports, *ends_here = words.lines["stdout"]
    assert first.startswith(f"{HANGING}: no answer  ({place} on ")
    assert ports == f"  ports   127.0.0.1:{port} by -L 0:localhost:1"
    host = socket.gethostname()
    assert ends_here[0] == (
        f"  listen  runs on this host: pid {listen.process.pid}, connected with {host}"
    )
    assert ends_here[1].startswith("  dial    runs on this host: pid ")
    (tunnel,) = json.loads(programs.lines["stdout"][0])["tunnels"]
    assert SENTENCE in tunnel["trouble"]
    assert tunnel["sessions"] == []
    assert tunnel["here"][0]["pid"] == listen.process.pid


def test_status_of_all(muxfs: Runner, ends: tuple[Command, int]) -> None:
    """One that hangs hides none of the others."""
    other = muxfs.start("dial", "other", "--json")
    other.event("waiting")
    words, programs = (start(muxfs, "status", *more) for more in ((), ("--json",)))
    assert (words.wait(), programs.wait()) == (0, 0)
    _, hanging, living, sentence = words.lines["stdout"]
    assert hanging.split()[:5] == [HANGING, "no", "answer", "-", str(ends[1])]
    assert living.split()[:2] == ["other", "waiting"]
    assert sentence.startswith(f"the filesystem of {muxfs.home / HANGING} ")
    assert SENTENCE in sentence
    first, second = json.loads(programs.lines["stdout"][0])["tunnels"]
    assert SENTENCE in first["trouble"]
    assert (second["trouble"], second["sessions"][0]["state"]) == ("", "waiting")


@pytest.mark.parametrize("arguments", [("status", HANGING), ("explain", f"/tmp/{HANGING}")])
def test_ctrl_c(muxfs: Runner, arguments: tuple[str, ...]) -> None:
    (muxfs.home / HANGING / "sessions" / "0").mkdir(parents=True)
    command = start(muxfs, *arguments, limit=PATIENCE * 2)
    command.says("waiting for an answer from")
    assert command.end(signal.SIGINT) == 128 + signal.SIGINT


@pytest.mark.parametrize(
    "command",
    [
        ("explain",),
        ("keygen",),
        ("status", "job", "--key-file"),
        ("bench", "job", "--key-file"),
    ],
)
def test_files_of_others(muxfs: Runner, tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / HANGING
    hanging = start(muxfs, *command, str(path))
    assert hanging.wait() == os.EX_IOERR
    assert f"muxfs: the filesystem of {path} " in hanging.stderr
    assert SENTENCE in hanging.stderr


def test_an_end_of_this_host_is_found_by_its_name(muxfs: Runner, ends: tuple[Command, int]) -> None:
    """Nothing that it is asked for needs its directory."""
    forward = start(muxfs, "forward", HANGING, "--side", "listen")
    stdio = start(muxfs, "stdio", HANGING, "1")
    nobody = start(muxfs, "stdio", f"no-{HANGING}", "1")
    assert forward.wait() == 0
    assert forward.lines["stdout"] == [f"-L 0:localhost:1  on 127.0.0.1:{ends[1]}"]
    assert stdio.wait() == os.EX_UNAVAILABLE
    assert "localhost:1" in stdio.stderr
    assert nobody.wait() == os.EX_IOERR
    assert SENTENCE in nobody.stderr


def test_bench(muxfs: Runner) -> None:
    muxfs.home.mkdir(mode=0o700)
    bench = start(muxfs, "bench", HANGING, "--peer")
    assert bench.wait() == os.EX_IOERR
    assert SENTENCE in bench.stderr
