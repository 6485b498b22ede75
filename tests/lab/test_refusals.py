"""Directories that cannot be used: one sentence says which, why, and what to do."""

from __future__ import annotations

import os

from .ends import Ends
from .lab import Unsupported


async def test_root_squash(ends: Ends) -> None:
    """Root makes a directory there, which then belongs to nobody."""
    tunnel = ends.lab.place("squashed") / "tunnel"
    said = await ends.muxfs(ends.dialler, "dial", tunnel, as_user=False)
    assert said.status == os.EX_NOPERM
    assert (
        f"{tunnel} belongs to another user (uid 65534); the server may squash root" in said.errors
    )


async def test_read_only_mount(ends: Ends) -> None:
    tunnel = ends.lab.place("readonly") / "tunnel"
    said = await ends.muxfs(ends.dialler, "dial", tunnel)
    assert said.status == os.EX_CANTCREAT
    assert f"cannot create {tunnel}: Read-only file system" in said.errors


async def test_directory_of_somebody_else(ends: Ends) -> None:
    await ends.listener.run("mkdir", "-m", "777", str(ends.directory), as_user=False)
    owner = await ends.dialler.run("stat", "-c", "%u", str(ends.directory))
    if int(owner.output):
        raise Unsupported("all files are the user's on this mount")
    said = await ends.muxfs(ends.dialler, "dial", ends.directory)
    assert said.status == os.EX_NOPERM
    assert (
        f"{ends.directory} belongs to another user (uid 0); choose one of your own" in said.errors
    )
