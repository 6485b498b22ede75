"""One host of the cluster: commands on it, as one of its users."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.lab.cell import CHECKOUT, NETWORK, Cell
from tests.lab.remote import Completed, LabError, Machine, Process

from . import environment

ROOT = "root"
USER = "user1"
OTHER = "user2"
USERS = {USER: 2001, OTHER: 2002}
SCRIPT = Path(__file__).parent / "host.sh"
START = 60.0
"""Seconds; 1 on an idle machine."""
NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid", "--cgroup", "--fork", "--kill-child")
# As after a login: nothing of the tests' own environment.
PATH = "/usr/local/bin:/usr/bin:/bin"
_HOME = 'cd && exec "$@"'


@attrs.define(eq=False)
class Host:
    """A host, up or not."""

    name: str
    role: str
    """Of host.sh: ctl, login or compute."""
    number: int
    """Last part of its address."""
    cell: Cell
    machine: Machine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.machine = Machine(self.name, str(self.cell.directory / "sockets" / self.name))

    @property
    def address(self) -> str:
        """Its address in the cluster's network."""
        return f"{NETWORK}.{self.number}"

    @property
    def cable(self) -> str:
        """The other end of its network cable, in the cell."""
        return f"to-{self.name}"

    @property
    def log(self) -> Path:
        """What its first process says."""
        return self.cell.directory / f"{self.name}.log"

    @property
    def group(self) -> Path:
        """Its part of the freezer's cgroups, if the cluster uses them."""
        cluster = hashlib.sha256(str(self.cell.directory).encode()).hexdigest()[:12]
        return self.cell.volatile / "freezer" / f"muxfs-slurm-{cluster}" / self.name

    @property
    def is_up(self) -> bool:
        """Whether it has power."""
        return self._pid_file.exists()

    @property
    def _pid_file(self) -> Path:
        return self.cell.directory / f"{self.name}.pid"

    async def run(self, *argv: str, user: str = USER, **options: Any) -> Completed:
        """Run a command to its end; see `Machine.run`: check, within."""
        return await self.machine.run(*_as(user, argv), **options)

    async def start(
        self, nursery: trio.Nursery, *argv: str, errors: Path, user: str = USER
    ) -> Process:
        """Start a command; see `Machine.start`. It is killed when the nursery is cancelled."""
        return await self.machine.start(nursery, *_as(user, argv), errors=errors)

    async def boot(self) -> None:
        """Start it, and wait until it runs commands."""
        run = self.cell.machine.run
        entry = "/dev/null"
        if await self._has_groups():
            await run("mkdir", "-p", str(self.group))
            entry = f"{self.group}/cgroup.procs"
        # unshare is in the host's cgroup before it makes the namespace that begins there
        enter = 'echo $$ > "$0"; exec "$@"'
        words = [
            *("sh", "-c", enter, entry, "unshare", *NAMESPACES, str(SCRIPT)),
            *(self.name, self.role, self.address, str(self.cell.directory)),
            *(sys.executable, str(CHECKOUT), *map(str, environment.visible())),
        ]
        maker = await self.cell.machine.background(*words, log=str(self.log), environment={})
        children = ("pgrep", "-P", str(maker))
        with trio.move_on_after(START):
            while not (first := (await run(*children, check=False)).output.strip()):  # noqa: ASYNC110
                await trio.sleep(0.02)
            self._pid_file.write_text(first)
            await run("ip", "link", "del", self.cable, check=False)
            await run(
                *("ip", "link", "add", self.cable, "type", "veth"),
                *("peer", "name", "eth0", "netns", first),
            )
            await run("ip", "link", "set", self.cable, "master", "br0", "up")
            while not await self.machine.answers():
                if (await run("kill", "-0", first, check=False)).status:
                    break
                await trio.sleep(0.05)
            else:
                return
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        raise LabError("\n".join([f"the host {self.name} did not come up:", *tail]))

    async def kill(self) -> None:
        """Cut its power: all that runs on it is gone at once, and its network; its disk stays."""
        run = self.cell.machine.run
        if not self.is_up:
            return
        first = self._pid_file.read_text()
        self._pid_file.unlink()
        await run("kill", "-KILL", first, check=False)
        await self.machine.lose()
        # the first process of a namespace is gone when all others are
        while not (await run("kill", "-0", first, check=False)).status:  # noqa: ASYNC110
            await trio.sleep(0.02)
        if await self._has_groups():
            await run("find", str(self.group), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";")

    async def unplug(self) -> None:
        """Pull its network cable."""
        await self.cell.machine.run("ip", "link", "set", self.cable, "down")

    async def plug(self) -> None:
        """Plug its network cable in."""
        await self.cell.machine.run("ip", "link", "set", self.cable, "up")

    async def _has_groups(self) -> bool:
        freezer = str(self.cell.volatile / "freezer")
        return not (await self.cell.machine.run("test", "-d", freezer, check=False)).status


def _as(user: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    home = f"/home/{user}" if user != ROOT else "/root"
    words = {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
    if user == ROOT:
        words["PATH"] = f"/usr/local/sbin:/usr/sbin:/sbin:{PATH}"
    environ = ("env", "-i", *(f"{k}={v}" for k, v in words.items()), "LANG=C.UTF-8", "TERM=xterm")
    become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all")
    return (*(become if user != ROOT else ()), *environ, "sh", "-c", _HOME, "sh", *argv)
