"""GlusterFS: a volume of one brick, mounted by two FUSE clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from . import packages
from .fuse import ADDRESS, DATA, HOME, FuseLab
from .lab import Client

VOLUME: Final = "lab"
PRIVATE: Final = ("/var/lib/glusterd", "/var/log/glusterfs", "/run/gluster")
"""Directories of the package that the lab has its own of."""


class GlusterLab(FuseLab):
    """GlusterFS with the default options."""

    programs = (*FuseLab.programs, packages.GLUSTER)
    daemons = ("glusterd", "glusterfsd")

    async def _start_server(self) -> None:
        run = self.server.run
        for directory in PRIVATE:
            await run("mkdir", "-p", directory)
            await run("mount", "-t", "tmpfs", "tmpfs", directory)
        await run("mkdir", str(DATA / "brick"))
        await self.daemon(self.server, "glusterd", "glusterd", "--no-daemon", "-L", "WARNING")
        gluster = ("gluster", "--mode=script")
        await self.server.until_succeeds(*gluster, "volume", "list")
        brick = f"{ADDRESS}:{DATA / 'brick'}"
        await run(*gluster, "volume", "create", VOLUME, brick, "force")
        await run(*gluster, "volume", "start", VOLUME)

    def _mount_command(self, client: Client) -> Sequence[str]:
        log = self.cell.directory / f"glusterfs-{client.machine.name}.log"
        return (
            *("glusterfs", "--no-daemon", f"--log-file={log}"),
            *(f"--volfile-server={ADDRESS}", f"--volfile-id=/{VOLUME}"),
            *self.spec.options,
            str(HOME),
        )
