"""A guest: user-mode Linux, a kernel of its own that is a process of the lab."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import attrs
import trio

from .cell import CHECKOUT, NETWORK, Cell
from .remote import LabError, Machine

HERE = Path(__file__).parent / "guest"
MEMORY = "768M"
BOOT = 120.0
"""Seconds; 2 on an idle machine."""


@attrs.define(eq=False)
class Guest:
    """One virtual machine, with the host's files and the lab's network."""

    name: str
    number: int
    """Last part of its address."""
    cell: Cell
    disks: tuple[tuple[str, str], ...] = ()
    """Names and sizes; the first is /dev/ubda."""
    machine: Machine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.machine = attrs.evolve(self.cell.machine, name=self.name, address=self.address)

    @property
    def address(self) -> str:
        """Its address in the lab's network."""
        return f"{NETWORK}.{self.number}"

    @property
    def _tap(self) -> str:
        return f"tap{self.number}"

    @property
    def _pid_file(self) -> Path:
        return self.cell.directory / f"{self.name}.pid"

    async def prepare(self) -> None:
        """Make its network interface and disks."""
        run = self.cell.machine.run
        await run("ip", "tuntap", "add", self._tap, "mode", "tap")
        await run("ip", "link", "set", self._tap, "master", "br0", "up")
        for disk, size in self.disks:
            await run("truncate", "-s", size, str(self.cell.volatile / disk))

    async def boot(self) -> None:
        """Start it and wait until it runs commands."""
        log = self.cell.directory / f"{self.name}.log"
        pid = await self.cell.machine.background(
            "linux.uml",
            *self._arguments(),
            log=str(log),
            environment={
                "LD_PRELOAD": str(await trio.to_thread.run_sync(_shim, self.cell.directory)),
                "TMPDIR": str(self.cell.volatile),
            },
        )
        self._pid_file.write_text(str(pid))
        with trio.move_on_after(BOOT):
            while not await self.machine.answers():
                if not await self._runs(pid):
                    break
                await trio.sleep(0.05)
            else:
                return
        tail = log.read_text(errors="replace").splitlines()[-20:]
        raise LabError("\n".join([f"the guest {self.name} did not come up:", *tail]))

    async def kill(self) -> None:
        """End it at once, as a power failure would."""
        # its session: the kernel and the processes of its processes
        pid = self._pid_file.read_text()
        await self.cell.machine.run("pkill", "-KILL", "-s", pid)
        await self.machine.lose()
        # all of them: each has the tap open, and a second guest cannot have it meanwhile
        gone = ("pgrep", "-s", pid)
        while not (await self.cell.machine.run(*gone, check=False)).status:  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def _runs(self, pid: int) -> bool:
        return not (await self.cell.machine.run("kill", "-0", str(pid), check=False)).status

    def _arguments(self) -> list[str]:
        settings = self.cell.directory / f"{self.name}.settings"
        values = {
            "name": self.name,
            "address": self.address,
            "python": sys.executable,
            "checkout": str(CHECKOUT),
        }
        settings.write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in values.items()))
        disks = [
            f"ubd{letter}={self.cell.volatile / disk}"
            for letter, (disk, _) in zip("abcd", self.disks, strict=False)
        ]
        return [
            f"umid={self.name}",
            f"uml_dir={self.cell.volatile}/uml/",
            f"mem={MEMORY}",
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
            *("con=null", "con0=null,fd:1", "console=tty0"),
            f"vec0:transport=tap,ifname={self._tap},depth=128,gro=1",
            *disks,
            f"init={HERE / 'init.sh'}",
            f"machine={settings}",
        ]


def _shim(directory: Path) -> Path:
    """Compile what linux.uml needs on some processors; its source says why."""
    library = directory / "xstate.so"
    if not library.exists():
        source = HERE / "xstate.c"
        argv = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(argv, check=True, capture_output=True)
    return library
