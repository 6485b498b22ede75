"""A wrong choice of strategy on a real filesystem: the session finds it out, and heals."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import Running

from .ends import Ends, open_ends
from .lab import Lab

BLIND = ("sshfs", "gluster", "ceph")
"""Where plain reads never see what was overwritten."""


class Misjudged(Ends):
    """Ends that begin with plain reads."""

    async def open(self, command: str, argv: list[str], log: Path) -> Running:
        return await super().open(
            command, ["tests.lab.misjudged" if word == "muxfs" else word for word in argv], log
        )


@pytest.fixture
async def misjudged(
    lab: Lab, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Ends]:
    directory = lab.clients[0].path / re.sub(r"\W+", "-", request.node.name)
    async with open_ends(lab, directory, tmp_path, Misjudged) as ends:
        yield ends


async def sides(ends: Ends) -> list[dict[str, Any]]:
    done = await ends.muxfs(ends.listener, "status", ends.directory, "--json")
    (session,) = json.loads(done.output)["tunnels"][0]["sessions"]
    return [session[side] for side in ("listen", "dial")]


async def test_plain_reads_are_given_up_where_they_are_blind(misjudged: Ends) -> None:
    ends = misjudged
    port = await ends.up()
    await ends.work("requests", port, 20, 4)
    # few: on NFS plain reads may show each message 2 s late for long until that is proven
    await ends.work("echoes", port, 20, 1)
    if ends.lab.spec.filesystem in BLIND:
        for side in ends.sides:
            assert (await side.event("access"))["before"] == "held+dsync"


async def test_the_choice_of_the_table_is_kept(ends: Ends) -> None:
    port = await ends.up()
    await ends.work("requests", port, 40, 4)
    await ends.work("echoes", port, 100, 1)
    for side in await sides(ends):
        assert side["report"]["escalations"] == 0
