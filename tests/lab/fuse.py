"""What labs of FUSE filesystems have in common: all in the cell, each client in a mount namespace.

Each client has a FUSE daemon of its own and so a cache of its own, in the daemon and in
the kernel, and processes of its own; only the processors are shared.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

import attrs
import trio

from . import packages
from .cell import NETWORK
from .lab import Client, Lab, Spec
from .remote import Machine

MOUNTS: Final = Path("/mnt")
HOME: Final = MOUNTS / "home"
ADDRESS: Final = f"{NETWORK}.1"
"""Of the server; some refuse the loopback's."""
DATA: Final = Path("/srv")
"""All that the server has."""


class FuseLab(Lab):
    """A server in the cell, and two clients beside it."""

    programs: ClassVar[tuple[Mapping[str, str], ...]] = (packages.CELL, packages.FUSE)
    # what a FUSE daemon has taken on is waited out by the kernel, whatever signals come
    lingering = True
    daemons: ClassVar[tuple[str, ...]]
    """The processes that serve, by name; no client has one of these names."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        super().__init__(spec, directory)
        self.server = attrs.evolve(self.cell.machine, name="server")
        a, b = (
            Client(attrs.evolve(self.server, name=name, address=f"127.0.0.{2 + i}"), HOME)
            for i, name in enumerate("ab")
        )
        self._clients = a, b
        self._pids: dict[str, int] = {}

    @property
    def clients(self) -> tuple[Client, Client]:
        return self._clients

    @property
    def machines(self) -> Mapping[str, Machine]:
        machines = (self.server, *(client.machine for client in self._clients))
        return {machine.name: machine for machine in machines}

    async def _bring_up(self) -> None:
        await self.server.run("mount", "-t", "tmpfs", "-o", "mode=755,size=90%", "tmpfs", str(DATA))
        await self._start_server()
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(self._start_client, client)
        await self._clients[0].machine.run("chmod", "1777", str(HOME))

    @abc.abstractmethod
    async def _start_server(self) -> None:
        """Start all that the clients need."""

    @abc.abstractmethod
    def _mount_command(self, client: Client) -> Sequence[str]:
        """Return the command that mounts the filesystem at `HOME` and stays in the foreground."""

    async def _start_client(self, client: Client) -> None:
        machine = client.machine
        assert machine.address is not None
        agent = (sys.executable, "-m", "tests.lab.agent", machine.address)
        own = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._pids[machine.name] = await self.daemon(self.server, machine.name, *own, *agent)
        await machine.until_succeeds("true")
        await machine.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(MOUNTS))
        await machine.run("mkdir", str(HOME))
        await self._mount(client)

    async def _mount(self, client: Client) -> None:
        name = f"mount-{client.machine.name}"
        await self.daemon(client.machine, name, *self._mount_command(client))
        await client.machine.until_succeeds("mountpoint", "-q", str(HOME))

    async def daemon(self, machine: Machine, name: str, *argv: str) -> int:
        """Start something that lives as long as the machine; its words go to a log of that name.

        Return its pid there.
        """
        log = str(self.cell.directory / f"{name}.log")
        return await machine.background(*argv, log=log, environment={})

    async def stop_server(self) -> None:
        """Have the server's processes stand still: what does not answer, but is not gone."""
        await self._signal_server("STOP")

    async def start_server(self) -> None:
        await self._signal_server("CONT")

    async def _signal_server(self, signal: str) -> None:
        await self.server.run("pkill", f"-{signal}", "-x", "|".join(self.daemons))

    async def crash(self, client: Client) -> None:
        """Kill all its processes, the filesystem's daemon too."""
        pid = str(self._pids[client.machine.name])
        await self.server.run("kill", "-KILL", pid)
        await client.machine.lose()

    async def restart(self, client: Client) -> None:
        await self._start_client(client)
