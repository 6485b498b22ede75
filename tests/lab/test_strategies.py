"""Reads that must never stick, and the usual advice, which does."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from .ends import note
from .lab import Lab, Unsupported
from .remote import Completed

ROUNDS = 4000


async def pingpong(lab: Lab, access: str, rounds: int) -> list[dict[str, Any]]:
    """Let the two clients play; return what both say."""
    directory = lab.clients[0].path / f"pingpong-{access}"
    await lab.clients[0].run("mkdir", str(directory))
    await lab.clients[0].run("touch", str(directory / "first"), str(directory / "second"))
    reports: list[dict[str, Any]] = []

    async def play(client: int, role: str) -> None:
        arguments = ("-m", "tests.lab.pingpong", role, str(directory), access, str(rounds))
        done: Completed = await lab.clients[client].run(sys.executable, *arguments)
        reports.append(json.loads(done.output))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, 0, "first")
        nursery.start_soon(play, 1, "second")
    note({"lab": str(lab.spec), "work": "pingpong", "sides": reports})
    return reports


async def test_the_chosen_strategy_never_sticks(lab: Lab) -> None:
    for report in await pingpong(lab, "default", ROUNDS):
        assert not report["stuck"], report
        assert report["rounds"] == ROUNDS


async def test_reopening_for_each_read_sticks(lab: Lab) -> None:
    """The proof that the test above can fail.

    On version 3, where two writes within one tick of the server's clock look like one. On
    version 4 it needs some thousand rounds, and luck.
    """
    if lab.spec.filesystem != "nfs3":
        raise Unsupported("it sticks for sure only on NFS version 3")
    reports = await pingpong(lab, "reopen+dsync", ROUNDS)
    assert any(report["stuck"] for report in reports)
