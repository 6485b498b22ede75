"""MooseFS: a master and a chunk server, mounted by two FUSE clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import packages
from .fuse import ADDRESS, DATA, HOME, FuseLab
from .lab import Client

DISK: Final = DATA / "disk"


class MooseLab(FuseLab):
    """MooseFS with one copy of each chunk."""

    programs = (*FuseLab.programs, packages.MOOSE)
    daemons = ("mfsmaster", "mfschunkserver")

    async def _start_server(self) -> None:
        master, chunks = DATA / "master", DATA / "chunks"
        await self.server.run("mkdir", str(master), str(chunks), str(DISK))
        self._settings(
            "master",
            DATA_PATH=master,
            EXPORTS_FILENAME=self._file("exports", "* / rw,alldirs,admin,maproot=0:0\n* . rw\n"),
            TOPOLOGY_FILENAME=self._file("topology", ""),
            MATOML_LISTEN_HOST=ADDRESS,
            MATOCS_LISTEN_HOST=ADDRESS,
            MATOCL_LISTEN_HOST=ADDRESS,
        )
        self._settings(
            "chunkserver",
            DATA_PATH=chunks,
            HDD_CONF_FILENAME=self._file("disks", f"{DISK}\n"),
            HDD_LEAVE_SPACE_DEFAULT="64MiB",
            MASTER_HOST=ADDRESS,
            CSSERV_LISTEN_HOST=ADDRESS,
            BIND_HOST=ADDRESS,
        )
        empty = "printf 'MFSM NEW' > " + str(master / "metadata.mfs")
        await self.server.run("bash", "-c", empty)
        for name in ("master", "chunkserver"):
            program = (f"mfs{name}", "-f", "-c", str(self._place(name)), "start")
            await self.daemon(self.server, name, *program)
        known = f"mfscli -H {ADDRESS} -SCS | grep -q {ADDRESS}"
        await self.server.until_succeeds("bash", "-c", known)

    def _mount_command(self, client: Client) -> Sequence[str]:
        options = ",".join(["allow_other", *self.spec.options])
        return ("mfsmount", "-f", "-H", ADDRESS, "-o", options, str(HOME))

    async def _mount(self, client: Client) -> None:
        await super()._mount(client)
        await client.machine.run("mfssetgoal", "1", str(HOME))

    def _settings(self, name: str, **settings: str | Path) -> None:
        common: dict[str, str | Path] = {"WORKING_USER": "root", "WORKING_GROUP": "root"}
        lines = [f"{key} = {value}\n" for key, value in (common | settings).items()]
        self._file(name, "".join(lines))

    def _place(self, name: str) -> Path:
        return self.cell.directory / f"{name}.cfg"

    def _file(self, name: str, text: str) -> Path:
        """Write a file of settings; the cell sees the host's files."""
        place = self._place(name)
        place.write_text(text)
        return place
