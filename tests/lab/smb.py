"""SMB: Samba in the cell, and the kernel's client in two guests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from . import packages
from .cell import NETWORK
from .guest import Guest
from .lab import Client, Lab, Spec
from .remote import USER, Machine

MOUNTS: Final = Path("/mnt")
HOME: Final = "home"
SMALL: Final = "small"
SHARES: Final = (HOME, SMALL)
ADDRESS: Final = f"{NETWORK}.1"
"""Of Samba."""
SETTINGS: Final = """\
[global]
security = user
map to guest = Bad User
guest account = root
interfaces = {address}/24
bind interfaces only = yes
private dir = {state}
lock directory = {state}
state directory = {state}
cache directory = {state}
pid directory = {state}
ncalrpc dir = {state}/ncalrpc
disable netbios = yes
smb ports = 445
load printers = no
"""
SETTINGS_OF_SHARE: Final = """\
[{share}]
path = {path}
writable = yes
guest ok = yes
guest only = yes
"""


class SmbLab(Lab):
    """SMB 3.1.1, with the given mount options besides the defaults."""

    programs = (packages.GUESTS, packages.SMB)

    def __init__(self, spec: Spec, directory: Path) -> None:
        super().__init__(spec, directory)
        self._guests = {name: Guest(name, 11 + i, self.cell) for i, name in enumerate("ab")}
        a, b = (Client(guest.machine, MOUNTS / HOME) for guest in self._guests.values())
        self._clients = a, b

    @property
    def clients(self) -> tuple[Client, Client]:
        return self._clients

    @property
    def machines(self) -> Mapping[str, Machine]:
        guests = {name: guest.machine for name, guest in self._guests.items()}
        return {"server": self.cell.machine, **guests}

    @property
    def _state(self) -> Path:
        return self.cell.volatile / "samba"

    @property
    def _settings(self) -> Path:
        return self.cell.directory / "smb.conf"

    async def _bring_up(self) -> None:
        run = self.cell.machine.run
        await run("mkdir", "-p", *(str(self._state / share) for share in SHARES))
        await run("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", str(self._state / SMALL))
        settings = SETTINGS.format(address=ADDRESS, state=self._state)
        for share in SHARES:
            settings += SETTINGS_OF_SHARE.format(share=share, path=self._state / share)
        self._settings.write_text(settings)
        await self.start_server()
        async with trio.open_nursery() as nursery:
            for guest in self._guests.values():
                nursery.start_soon(self._boot, guest)

    async def start_server(self) -> None:
        machine = self.cell.machine
        smbd = (
            "smbd",
            "--foreground",
            "--no-process-group",
            "--debug-stdout",
            f"--configfile={self._settings}",
        )
        await machine.background(*smbd, log=str(self.cell.directory / "smbd.log"), environment={})
        probe = f"exec 3<>/dev/tcp/{ADDRESS}/445"
        await machine.until_succeeds("bash", "-c", probe)

    async def stop_server(self) -> None:
        await self.cell.machine.run("pkill", "-x", "smbd")
        gone = ("pgrep", "-x", "smbd")
        while not (await self.cell.machine.run(*gone, check=False)).status:  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def _boot(self, guest: Guest) -> None:
        await guest.prepare()
        await guest.boot()
        await self._mount(guest.machine)

    async def _mount(self, machine: Machine) -> None:
        # what users see as their own: muxfs checks it
        owner = (f"uid={USER}", f"gid={USER}", "forceuid", "forcegid")
        modes = ("file_mode=0600", "dir_mode=0700")
        options = ",".join(["guest", "vers=3.1.1", *owner, *modes, *self.spec.options])
        await machine.run("modprobe", "cifs")
        for share in SHARES:
            place = str(MOUNTS / share)
            await machine.run("mkdir", "-p", place)
            await machine.run("mount", "-t", "cifs", "-o", options, f"//{ADDRESS}/{share}", place)

    def place(self, kind: str) -> Path:
        return MOUNTS / SMALL if kind == SMALL else super().place(kind)

    def on_server(self, path: Path) -> Path:
        return self._state / path.relative_to(MOUNTS)

    async def crash(self, client: Client) -> None:
        await self._guests[client.machine.name].kill()

    async def restart(self, client: Client) -> None:
        guest = self._guests[client.machine.name]
        await guest.boot()
        await self._mount(guest.machine)
