"""CephFS: a monitor, a manager, an OSD in memory and an MDS, mounted by two ceph-fuse."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import packages
from .fuse import ADDRESS, DATA, HOME, FuseLab
from .lab import Client

PORT: Final = 3300
SETTINGS: Final = """\
[global]
fsid = {fsid}
mon host = v2:{address}:{port}
public addr = {address}
keyring = {data}/keyring
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
run dir = {data}/run
admin socket = {data}/run/$name.$pid.asok
osd objectstore = memstore
memstore device bytes = 2147483648
[mon.a]
mon data = {data}/mon
[mgr.x]
mgr data = {data}/mgr
[osd.0]
osd data = {data}/osd
[mds.a]
mds data = {data}/mds
"""
CAPABILITIES: Final = {
    "mon.": "--cap mon 'allow *'",
    "client.admin": "--cap mon 'allow *' --cap osd 'allow *' --cap mds 'allow *'",
    "osd.0": "--cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'",
    "mds.a": "--cap mon 'allow profile mds' --cap osd 'allow rwx' --cap mds 'allow *'",
    "mgr.x": "--cap mon 'allow profile mgr' --cap osd 'allow *' --cap mds 'allow *'",
}


class CephLab(FuseLab):
    """CephFS through FUSE."""

    programs = (*FuseLab.programs, packages.CEPH)
    daemons = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds")

    async def _start_server(self) -> None:
        await self._sh("mkdir mon mgr osd mds run")
        fsid = uuid.uuid4()
        settings = SETTINGS.format(fsid=fsid, address=ADDRESS, port=PORT, data=DATA)
        self._settings.write_text(settings)
        keys = [f"-n {name} --gen-key {caps}" for name, caps in CAPABILITIES.items()]
        await self._sh("touch keyring; " + "; ".join(f"ceph-authtool keyring {k}" for k in keys))
        await self._sh(
            f"monmaptool --create --fsid {fsid} --addv a '[v2:{ADDRESS}:{PORT}]' monmap",
            f"ceph-mon -c {self._settings} --mkfs -i a --monmap monmap --keyring keyring",
        )
        await self._start("mon", "a")
        await self.server.until_succeeds(*self._ceph("status"))
        await self._start("mgr", "x")
        osd = uuid.uuid4()
        await self.server.run(*self._ceph("osd", "new", str(osd)))
        await self._sh(f"ceph-osd -c {self._settings} -i 0 --mkfs --osd-uuid {osd}")
        crush = ("osd", "crush", "add", "osd.0", "1.0", "host=lab", "root=default")
        await self.server.run(*self._ceph(*crush))
        await self._start("osd", "0")
        for pool in ("metadata", "data"):
            await self.server.run(*self._ceph("osd", "pool", "create", pool, "8"))
        await self.server.run(*self._ceph("fs", "new", "lab", "metadata", "data"))
        await self._start("mds", "a")
        active = " ".join(self._ceph("mds", "stat")) + " | grep -q up:active"
        await self.server.until_succeeds("bash", "-c", active)

    @property
    def _settings(self) -> Path:
        return self.cell.directory / "ceph.conf"

    def _ceph(self, *arguments: str) -> tuple[str, ...]:
        return ("ceph", "-c", str(self._settings), "--connect-timeout", "10", *arguments)

    async def _start(self, kind: str, name: str) -> None:
        program = (f"ceph-{kind}", "-d", "-c", str(self._settings), "-i", name)
        await self.daemon(self.server, kind, *program)

    async def _sh(self, *lines: str) -> None:
        script = "\n".join([f"set -e; cd {DATA}", *lines])
        await self.server.run("bash", "-c", script)

    def _mount_command(self, client: Client) -> Sequence[str]:
        return ("ceph-fuse", "-f", "-c", str(self._settings), "--id", "admin", str(HOME))
