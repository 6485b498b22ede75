"""The kernel's NFS server and two of its clients, in three guests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from . import packages
from .guest import HERE, Guest
from .lab import Client, Lab, Spec, Unsupported
from .remote import LabError, Machine

VERSIONS: Final = ("3", "4.0", "4.1", "4.2")
MOUNTS: Final = Path("/mnt")
HOME: Final = "home"
EXPORTS: Final = (HOME, "small", "squashed", "readonly")
"""See guest/nfsd.sh."""
LATE: Final = "late"
"""Where home is mounted once more, by a client that believes in attributes for a minute."""


class NfsLab(Lab):
    """NFS of one version, with the given mount options besides the defaults."""

    programs = (packages.GUESTS, packages.NFS)

    def __init__(self, spec: Spec, directory: Path) -> None:
        super().__init__(spec, directory)
        self.version = spec.filesystem.removeprefix("nfs")
        if self.version not in VERSIONS:
            raise LabError(f"no NFS version {self.version!r}: there are {', '.join(VERSIONS)}")
        self.server = Guest("server", 10, self.cell, (("large", "3G"), ("small", "24M")))
        self._guests = {name: Guest(name, 11 + i, self.cell) for i, name in enumerate("ab")}
        a, b = (Client(guest.machine, MOUNTS / HOME) for guest in self._guests.values())
        self._clients = a, b

    @property
    def clients(self) -> tuple[Client, Client]:
        return self._clients

    @property
    def machines(self) -> Mapping[str, Machine]:
        return {guest.name: guest.machine for guest in (self.server, *self._guests.values())}

    async def _bring_up(self) -> None:
        async with trio.open_nursery() as nursery:
            for guest in (self.server, *self._guests.values()):
                nursery.start_soon(self._boot_first, guest)
        await self.start_server()
        async with trio.open_nursery() as nursery:
            for guest in self._guests.values():
                nursery.start_soon(self._mount_all, guest)

    @staticmethod
    async def _boot_first(guest: Guest) -> None:
        await guest.prepare()
        await guest.boot()

    async def _mount_all(self, guest: Guest) -> None:
        for export in EXPORTS:
            # version 4 has a tree of its own, whose root is /export
            path = f"/export/{export}" if self.version == "3" else f"/{export}"
            options = ",".join([f"vers={self.version}", *self.spec.options])
            await self._mount(guest, path, export, options)
            if export == HOME and not self.spec.options:
                await self._mount(guest, path, LATE, f"{options},actimeo=60")

    @staticmethod
    async def _mount(guest: Guest, path: str, place: str, options: str) -> None:
        await guest.machine.run(str(HERE / "nfs-mount.sh"), path, str(MOUNTS / place), options)

    def place(self, kind: str) -> Path:
        if kind == LATE and self.spec.options:
            raise Unsupported(f"the lab of {self.spec} has the options that it was asked for")
        assert kind in {LATE, *EXPORTS}
        return MOUNTS / kind

    def on_server(self, path: Path) -> Path:
        return Path("/export") / path.relative_to(MOUNTS)

    async def stop_server(self) -> None:
        await self.server.machine.run(str(HERE / "nfsd.sh"), "stop")

    async def start_server(self) -> None:
        await self.server.machine.run(str(HERE / "nfsd.sh"), "start")

    async def crash_server(self) -> None:
        await self.server.kill()

    async def restart_server(self) -> None:
        await self.server.boot()
        await self.start_server()

    async def crash(self, client: Client) -> None:
        await self._guests[client.machine.name].kill()

    async def restart(self, client: Client) -> None:
        guest = self._guests[client.machine.name]
        await guest.boot()
        await self._mount_all(guest)

    async def operations(self, client: Client) -> Mapping[str, int]:
        counted = await client.machine.run("cat", "/proc/self/mountstats")
        return parse_mountstats(counted.output, str(client.path))


def parse_mountstats(text: str, place: str) -> dict[str, int]:
    """Return how often each operation was done at a mount point, from the kernel's statistics."""
    counts: dict[str, int] = {}
    here = False
    for line in text.splitlines():
        if line.startswith("device "):
            here = f" mounted on {place} with " in line
        elif here and line.startswith("\t"):
            name, colon, numbers = line.strip().partition(": ")
            first = numbers.split(" ", 1)[0]
            if colon and name.isupper() and first.isdecimal() and int(first):
                counts[name] = int(first)
    return counts
