"""Somebody removes, renames or locks up what a tunnel is made of, while it is used."""

from __future__ import annotations

import pytest
import trio

from .ends import Ends

ERRORS = {"No such file or directory", "Stale file handle", "Permission denied", "Not a directory"}
"""What may be said of it; or nothing, where descriptors that are held go on working."""

FAULTS = {
    # what is done to the tunnel's directory T, and what mends it
    "renamed": ("mv T T.away", "mv T.away T"),
    # what is removed, both ends make again: until none of them was quicker
    "removed": (
        "until rm -r T; do :; done",
        "install -d -m 700 -o 1000 -g 1000 T T/sessions T/sessions/0",
    ),
    "locked up": ("chmod 0 T T/sessions", "chmod 700 T T/sessions"),
}
DAMAGED = 5.0
"""Seconds until it is mended."""


@pytest.mark.parametrize("role", ["listen", "dial"])
async def test_mailbox_unlinked_by_the_other_client(ends: Ends, role: str) -> None:
    """No byte is wrong, no stream ends, and the file comes back."""
    port = await ends.up()
    echoes = await ends.begin("echoes", port, 150, 1)
    mailbox = str(ends.directory / "sessions" / "0" / f"{role}.mbx")
    other = ends.listener if role == "dial" else ends.dialler  # who does not write it
    await other.run("rm", mailbox)
    await echoes.report()
    with trio.fail_after(60):  # a look at the own file every 20 s
        while (await other.run("ls", "-f", mailbox, check=False)).status:  # noqa: ASYNC110
            await trio.sleep(1)
    await ends.work("requests", port, 20, 4)
    for side in ends.sides:
        assert "lost" not in [event["event"] for event in side.events]


@pytest.mark.parametrize("fault", FAULTS)
async def test_directory(ends: Ends, fault: str) -> None:
    """Streams go on when it is mended; until then they wait, and both sides say why."""
    damage, repair = (
        text.replace("T", str(ends.lab.on_server(ends.directory))) for text in FAULTS[fault]
    )
    server = ends.lab.machines["server"]
    port = await ends.up()
    echoes = await ends.begin("echoes", port, 300, 1)
    await server.run("bash", "-ec", damage)
    await trio.sleep(DAMAGED)
    await server.run("bash", "-ec", repair)
    await echoes.report()
    await ends.work("requests", port, 20, 4)
    for side in ends.sides:
        said = [event["error"] for event in side.events if event["event"] == "storage"]
        assert set(said) <= ERRORS | {""}
        assert "lost" not in [event["event"] for event in side.events]
