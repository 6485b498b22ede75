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

HOME: Final = Path("/mnt/home")
SHARE: Final = "lab"
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
[{share}]
path = {state}/share
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
        a, b = (Client(guest.machine, HOME) for guest in self._guests.values())
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

    async def _bring_up(self) -> None:
        await self._start_samba()
        async with trio.open_nursery() as nursery:
            for guest in self._guests.values():
                nursery.start_soon(self._boot, guest)

    async def _start_samba(self) -> None:
        machine = self.cell.machine
        await machine.run("mkdir", "-p", str(self._state / "share"))
        settings = self.cell.directory / "smb.conf"
        address = f"{NETWORK}.1"
        settings.write_text(SETTINGS.format(address=address, state=self._state, share=SHARE))
        smbd = (
            "smbd",
            "--foreground",
            "--no-process-group",
            "--debug-stdout",
            f"--configfile={settings}",
        )
        await machine.background(*smbd, log=str(self.cell.directory / "smbd.log"), environment={})
        probe = f"exec 3<>/dev/tcp/{address}/445"
        await machine.until_succeeds("bash", "-c", probe)

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
        await machine.run("mkdir", "-p", str(HOME))
        share = f"//{NETWORK}.1/{SHARE}"
        await machine.run("mount", "-t", "cifs", "-o", options, share, str(HOME))

    async def crash(self, client: Client) -> None:
        await self._guests[client.machine.name].kill()

    async def restart(self, client: Client) -> None:
        guest = self._guests[client.machine.name]
        await guest.boot()
        await self._mount(guest.machine)
