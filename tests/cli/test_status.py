"""`muxfs status`, on real ends and on files of other hosts."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.cli import outlook, survey
from muxfs.cli.patience import Answers, Unanswered
from muxfs.control import client
from muxfs.core.wire import (
    HEAD_LENGTH,
    PAGE,
    Birth,
    Code,
    Incarnation,
    ItemType,
    Role,
    Status,
    encode_birth,
    encode_status,
    status_offset,
)
from tests.commands import Runner

T = TypeVar("T")
ELSEWHERE = "another-boot/pid:[1]/4242/99"
LISTEN, DIAL = Incarnation(3, b"L" * 16), Incarnation(5, b"D" * 16)


def head(
    role: Role,
    beat: int = 1,
    echo: Incarnation | None = None,
    report: bytes = b"{}",
    closed: Code | None = None,
) -> bytes:
    """Make the head of a mailbox of another host, with a heartbeat of 0.2 s."""
    own = LISTEN if role is Role.LISTEN else DIAL
    items = ((ItemType.HOST, b"node17\x1b[2J"), (ItemType.PROCESS, ELSEWHERE.encode()))
    data = bytearray(HEAD_LENGTH)
    birth = encode_birth(Birth(role, own, heartbeat=200, items=items))
    data[: len(birth)] = birth
    texts = ((ItemType.REPORT, report), (ItemType.REASON, b"because\x07"))
    status = encode_status(
        Status(
            own,
            echo,
            beat,
            closed=closed is not None,
            code=closed or Code.OK,
            items=texts,
        )
    )
    at = status_offset(beat)
    data[at : at + len(status)] = status
    return bytes(data)


def facts(muxfs: Runner, *arguments: str) -> Any:
    command = muxfs.run("status", *arguments, "--json")
    (line,) = command.lines["stdout"]
    return json.loads(line)["tunnels"]


def test_the_life_of_a_tunnel(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "0:1", "--json", "--label", "job 42")
    listen.event("waiting")
    (tunnel,) = facts(muxfs, "job")
    (session,) = tunnel["sessions"]
    assert (tunnel["tunnel"], tunnel["path"]) == ("job", str(muxfs.home / "job"))
    assert (session["state"], session["dial"]["condition"]) == ("waiting", "absent")
    assert session["listen"]["condition"] == "alive"
    assert session["listen"]["pid"] == listen.process.pid
    assert session["listen"]["label"] == "job 42"
    dial = muxfs.start("dial", "job", "--json")
    listen.event("established")
    dial.event("established")
    (session,) = facts(muxfs, "job")[0]["sessions"]
    assert session["state"] == "established"
    assert session["dial"]["report"]["streams"] == 0
    text = muxfs.run("status", "job").lines["stdout"]
    assert text[0].startswith(f"job: established  ({muxfs.home}/job on ")
    assert text[1].startswith("  ports   127.0.0.1:")
    assert f"pid {listen.process.pid}, user " in text[2]
    assert "0 streams of 0, " in text[3]
    dial.end(signal.SIGKILL)
    (session,) = facts(muxfs, "job")[0]["sessions"]
    assert (session["state"], session["dial"]["condition"]) == ("silent", "dead")
    listen.end()
    (session,) = facts(muxfs, "job")[0]["sessions"]
    assert (session["state"], session["listen"]["condition"]) == ("ended", "ended")
    assert "listen  ended (in good order): " in muxfs.run("status", "job").lines["stdout"][1]


def test_all_tunnels(muxfs: Runner) -> None:
    assert muxfs.run("status").lines["stdout"] == [f"no tunnels in {muxfs.home}"]
    for name in ("b", "a"):
        end = muxfs.start("dial", name, "--json")
        end.event("waiting")
        end.end()
    (muxfs.home / "a file").write_text("")
    (muxfs.home / "empty").mkdir()
    assert [tunnel["tunnel"] for tunnel in facts(muxfs)] == ["a", "b"]
    head, *lines = muxfs.run("status").lines["stdout"]
    assert head.split() == ["TUNNEL", "STATE", "LAST", "SIGN", "PORTS", "JOB"]
    assert [line.split()[:2] for line in lines] == [["a", "ended"], ["b", "ended"]]


def test_no_such_tunnel(muxfs: Runner) -> None:
    command = muxfs.run("status", "job")
    assert command.wait() == 66
    assert command.stderr == f"muxfs: no such tunnel: {muxfs.home}/job"


def sides(tmp_path: Path, listen: bytes | None, dial: bytes | None) -> survey.Session:
    for role, data in ((Role.LISTEN, listen), (Role.DIAL, dial)):
        if data is not None:
            (tmp_path / role.file_name).write_bytes(data)
    return survey._session(str(tmp_path.parent), tmp_path.name)


@attrs.define
class Clock:
    """Simulated time, in which something happens once."""

    when: float
    happen: Callable[[], None]
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if before < self.when <= self.now:
            self.happen()


@pytest.mark.parametrize(
    ("listen", "dial", "beating", "state", "conditions"),
    [
        (None, None, (), "ended", ("absent", "absent")),
        (head(Role.LISTEN), None, (), "ended", ("dead", "absent")),
        (head(Role.LISTEN), None, (Role.LISTEN,), "waiting", ("alive", "absent")),
        (
            head(Role.LISTEN, echo=DIAL),
            head(Role.DIAL, echo=LISTEN),
            (Role.LISTEN, Role.DIAL),
            "established",
            ("alive", "alive"),
        ),
        (
            head(Role.LISTEN, echo=DIAL),
            head(Role.DIAL, echo=LISTEN),
            (Role.LISTEN,),
            "silent",
            ("alive", "dead"),
        ),
        (
            head(Role.LISTEN, echo=DIAL),
            head(Role.DIAL, echo=LISTEN, closed=Code.SHUTDOWN),
            (Role.LISTEN,),
            "waiting",
            ("alive", "ended"),
        ),
        (
            head(Role.LISTEN, echo=DIAL),
            head(Role.DIAL),
            (Role.LISTEN, Role.DIAL),
            "waiting",
            ("alive", "alive"),
        ),
    ],
)
def test_ends_on_other_hosts_are_watched(
    tmp_path: Path,
    listen: bytes | None,
    dial: bytes | None,
    beating: tuple[Role, ...],
    state: str,
    conditions: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their life shows in the beat alone."""
    session = sides(tmp_path, listen, dial)
    heads = {Role.LISTEN: listen, Role.DIAL: dial}

    def beat() -> None:
        for role in beating:
            data = heads[role]
            assert data is not None
            echo = survey.decode(data, Role.DIAL).status
            assert echo is not None
            newer = head(role, beat=2, echo=echo.echo)[status_offset(2) :][:PAGE]
            with (tmp_path / role.file_name).open("r+b") as file:
                file.seek(status_offset(2))
                file.write(newer)

    monkeypatch.setattr(survey, "time", Clock(0.1, beat))
    survey.watch(session.sides)
    assert (session.state, tuple(side.condition for side in session.sides)) == (state, conditions)


@attrs.define
class Hanging(Answers):
    """No answer of one file, at once."""

    path: str

    def of_all(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T | Unanswered]:
        return {
            path: Unanswered(path) if path == self.path else call() for path, call in calls.items()
        }


@pytest.mark.parametrize("hanging", list(Role))
def test_of_a_tunnel_that_is_given_up_no_end_is_waited_for(
    tmp_path: Path, hanging: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may live elsewhere, which takes a heartbeat to see, and is not shown."""
    session = sides(tmp_path, head(Role.LISTEN), head(Role.DIAL))
    found = survey.Found("job", str(tmp_path), str(tmp_path), [session])
    clock = Clock(0.0, lambda: None)
    monkeypatch.setattr(survey, "time", clock)
    survey._watch([found], Hanging(str(tmp_path / hanging.file_name)))
    assert found.unanswered is not None
    assert clock.now == 0.0


@pytest.mark.parametrize(
    ("as_json", "hangs", "asked"),
    [
        (False, False, ["listen"]),
        (True, False, ["listen", "dial"]),
        (False, True, ["listen", "dial"]),
    ],
)
def test_only_ends_that_are_shown_are_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
    hangs: bool,
    asked: list[str],
) -> None:
    """Each that was stopped takes seconds to be given up."""
    mailbox = tmp_path / "sessions" / "0" / Role.LISTEN.file_name
    mailbox.parent.mkdir(parents=True)
    mailbox.write_bytes(b"")
    roles: list[str] = []

    def find(_: str, role: str) -> Iterator[client.End]:
        roles.append(role)
        return iter(())

    monkeypatch.setattr(client, "find", find)
    answers = Hanging(str(mailbox) if hangs else "")
    with pytest.raises(Unanswered) if hangs else contextlib.nullcontext():
        survey._show(str(tmp_path), as_json, None, answers)
    assert roles == asked


def test_texts_of_the_other_side_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.dumps(
        {"streams": 3, "opened": 9, "round_trip": 0.04, "bytes_read": 5e6, "torn": 2, "x\x1b": 1}
    )
    dial = head(Role.DIAL, closed=Code.STORAGE, report=report.encode())
    session = sides(tmp_path, None, dial)
    survey.watch(session.sides)
    survey._print(survey.Found("job\x1b", str(tmp_path), "here\x07", [session]))
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert "dial    ended (because\\x07): node17\\x1b[2J, pid 4242" in text
    assert "3 streams of 9, 4.8 MiB read, round trip 40 ms, 2 torn" in text


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"[]",
        b"nonsense",
        b"[" * 4000,
        b'{"streams": NaN, "torn": "x", "stale": true, "access": ["x"]}',
        b"\xff",
    ],
)
def test_reports_that_make_no_sense(report: bytes) -> None:
    view = survey.decode(head(Role.DIAL, report=report[:3000]), Role.DIAL)
    assert (view.report, view.access) == ({}, "")


def test_access_of_a_side(tmp_path: Path, capsys) -> None:
    words = b"direct+dsync\\u001b[2J" + b"x" * 200
    report = b'{"streams": 0, "escalations": 2, "access": "%s"}' % words
    (tmp_path / "listen.mbx").write_bytes(head(Role.LISTEN, report=report))
    sides = [survey.Side(role, str(tmp_path / role.file_name)) for role in Role]
    session = survey.Session("0", sides[Role.LISTEN], sides[Role.DIAL])
    for side in sides:
        side.take(side.look())
    survey._print(survey.Found("job", str(tmp_path), "here", [session]))
    text = capsys.readouterr().out
    assert "files by direct+dsync\\x1b[2Jxxx" in text
    assert "changed 2 times" in text
    assert "x" * 60 not in text
    assert session.listen.facts()["access"] == session.listen.last.access


def test_several_sessions(tmp_path: Path, capsys) -> None:
    """What is of the tunnel is not shown as that of its last session."""
    sessions = [survey._session(str(tmp_path), number) for number in ("0", "1")]
    end = outlook.Here("listen", 1, [], ["127.0.0.1:8888"])
    survey._print(survey.Found("job", str(tmp_path), "here", sessions, here=[end]))
    assert capsys.readouterr().out.splitlines() == [
        "job: 2 sessions  (here)",
        "  ports   127.0.0.1:8888",
        *("  session 0: ended", "  listen  absent: ", "  dial    absent: "),
        *("  session 1: ended", "  listen  absent: ", "  dial    absent: "),
    ]


@given(st.binary(max_size=200), st.integers(0, HEAD_LENGTH - 1))
def test_any_bytes(garbage: bytes, at: int) -> None:
    data = bytearray(head(Role.LISTEN))
    data[at : at + len(garbage)] = garbage
    view = survey.decode(bytes(data), Role.DIAL)
    assert view.birth is not None or view.trouble
    assert survey.decode(garbage, Role.DIAL).birth is None


def test_a_file_that_is_a_trap(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "listen.mbx")
    (tmp_path / "dial.mbx").symlink_to("/etc/passwd")
    assert survey.read(str(tmp_path / "listen.mbx"), Role.LISTEN).trouble
    assert (
        survey.read(str(tmp_path / "dial.mbx"), Role.DIAL).trouble
        == "Too many levels of symbolic links"
    )
