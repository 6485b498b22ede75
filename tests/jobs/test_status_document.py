"""docs/control.md tells all that `muxfs status --json` has, and no more."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import attrs

from muxfs.cli.survey import Side, View
from muxfs.core.wire import Birth, Code, Incarnation, Role, Status
from muxfs.info import SessionStats
from tests.commands import Runner

from . import fake
from .fake import Slurm

DOCUMENT = Path(__file__).parents[2] / "docs" / "control.md"
WORDS = {"state", "access"}
"""What an end tells of itself besides numbers; `access` is told one level higher."""
OWN = Incarnation(1, b"x" * 16)


def documented(after: str) -> set[str]:
    """Return the names in the first column of the first table after some words."""
    section = DOCUMENT.read_text().partition("## muxfs status --json")[2]
    table = section.partition(after)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    return {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }


def status(muxfs: Runner) -> tuple[dict[str, Any], dict[str, Any]]:
    (line,) = muxfs.run("status", "--json").lines["stdout"]
    answer = json.loads(line)
    return answer, answer["tunnels"][0]


def test_what_is_printed_is_documented(slurm: Slurm, muxfs: Runner) -> None:
    slurm.says("squeue", fake.job(7, uid=os.geteuid()))
    listen = muxfs.start("listen", "slurm-7", "0:1", "--json")
    listen.event("listening")
    dial = muxfs.start("dial", "slurm-7", "--json")
    for end in (listen, dial):
        end.event("established")
    answer, tunnel = status(muxfs)
    (session,) = tunnel["sessions"]
    assert documented("prints one object") == set(answer)
    assert documented("A tunnel:") == set(tunnel)
    assert documented("A session:") == set(session)
    assert documented("A job:") == set(tunnel["job"])
    assert len(tunnel["here"]) == 2
    for here in tunnel["here"]:
        assert documented("One of `here`:") == set(here)
    dial.end(signal.SIGTERM)
    ended = status(muxfs)[1]["sessions"][0]["dial"]
    assert documented("An end;") - {"remark"} == set(ended)
    assert documented("A report:") - {"round_trip"} <= set(ended["report"])


def test_what_may_be_printed_is_documented() -> None:
    closed = Status(OWN, None, 1, closed=True, code=Code.SHUTDOWN)
    view = View(Birth(Role.DIAL, OWN, heartbeat=1000), closed, remark="sealed")
    assert documented("An end;") == set(Side(Role.DIAL, "", last=view).facts())
    assert documented("A report:") == {field.name for field in attrs.fields(SessionStats)} - WORDS
