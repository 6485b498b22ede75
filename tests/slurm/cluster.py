"""The cluster: a controller, two login hosts and two compute hosts, in a cell of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import trio

from tests.lab import packages
from tests.lab.cell import Cell, make_private
from tests.lab.remote import LabError, Machine

from . import environment
from .host import ROOT, USERS, Host

TABLES = (packages.CELL, packages.SLURM)
TRACKING = ("cgroup", "linuxproc")
"""How Slurm knows the processes of a job: as most sites, or without cgroups."""
ETC = Path(__file__).parent / "etc"
READY = 60.0
"""Seconds until Slurm has seen its nodes."""
LEFTOVERS = 60.0
PLUGSTACK = "plugstack.conf"
_CLEAN = """
tail -v -n 40 *.out 2>/dev/null
find . /shared/scratch -mindepth 1 -user "$USER" -delete
chmod 700 .
"""


def home() -> Path:
    """Return the directory of the cluster that was told to stay."""
    return Path(tempfile.gettempdir()) / f"muxfs-slurm-{os.geteuid()}" / "cluster"


class Cluster:
    """Five hosts whose network lets nothing pass between login and compute but Slurm's own."""

    def __init__(self, directory: Path, tracking: str = "cgroup") -> None:
        self.cell = Cell(directory)
        self.tracking = tracking
        self.controller = Host("ctl", "ctl", 2, self.cell)
        self.login1 = Host("login1", "login", 11, self.cell)
        self.login2 = Host("login2", "login", 12, self.cell)
        self.c1 = Host("c1", "compute", 21, self.cell)
        self.c2 = Host("c2", "compute", 22, self.cell)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All hosts, by name."""
        every = (self.controller, self.login1, self.login2, self.c1, self.c2)
        return {host.name: host for host in every}

    @property
    def computes(self) -> tuple[Host, Host]:
        """The hosts that jobs run on."""
        return self.c1, self.c2

    @property
    def license(self) -> Machine:
        """A third host, which only the login hosts reach, by the name `license`."""
        return self.cell.machine

    @property
    def etc(self) -> Path:
        """/etc/slurm of all hosts, on this machine."""
        return self.cell.directory / "etc"

    async def up(self) -> None:
        """Bring it up afresh. It ends with this process, unless that calls `stay`."""
        packages.check_cell(TABLES)
        self._process = await self.cell.open()
        try:
            await trio.to_thread.run_sync(self._furnish)
            await self._mount()
            async with trio.open_nursery() as nursery:
                for host in self.hosts.values():
                    nursery.start_soon(host.boot)
            await self._ready()
        except BaseException:
            self._print_logs()
            with trio.CancelScope(shield=True):
                await self.down()
            raise

    def install(self) -> None:
        """Give its users the muxfs of this checkout as it is now."""
        environment.install(self.cell.directory / "muxfs")

    def stay(self) -> None:
        """Let it live on when this process ends."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"stay\n")
        self._process.stdin.close()

    async def down(self) -> None:
        """End all of it; nothing is left."""
        if self.cell.is_alive():
            # one by one, for the sake of their cgroups, which outlive a cell
            for host in self.hosts.values():
                await host.kill()
            await self.cell.machine.run("rmdir", str(self.controller.group.parent), check=False)
        self.cell.close()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    async def power_cut(self, host: Host) -> None:
        """End a host at once, with all that runs on it."""
        await host.kill()

    async def start(self, host: Host) -> None:
        """Start a host again after `power_cut`."""
        await host.boot()

    async def partition(self, host: Host) -> None:
        """Cut a host off the network; the shared filesystem stays."""
        await host.unplug()

    async def heal(self, host: Host) -> None:
        """Undo `partition`."""
        await host.plug()

    async def restart_controller(self) -> None:
        """Stop slurmctld, which keeps its state on the disk, and start it again."""
        await self._stop(self.controller, "slurmctld")
        await self.controller.run("slurmctld", user=ROOT)
        await self._ready()

    async def restart_daemons(self) -> None:
        """Restart slurmd on all nodes: only at its start does it read plugstack.conf."""
        for host in self.computes:
            await self._stop(host, "slurmd")
            await host.run("slurmd", "-N", host.name, user=ROOT)
        await self._ready()

    async def plugins(self, text: str) -> None:
        """Set the contents of plugstack.conf on all hosts."""
        (self.etc / PLUGSTACK).write_text(text)
        await self.restart_daemons()

    async def no_leftovers(self, within: float = LEFTOVERS) -> None:
        """Fail unless nothing of users or of muxfs is left, soon, on any host that is up.

        Processes, ports, cgroups of jobs, mailbox files: `survey`.
        """
        end = trio.current_time() + within
        while found := await self._survey():
            if trio.current_time() > end:
                raise AssertionError("\n".join([f"after {within} s there still is", *found]))
            await trio.sleep(0.5)

    async def tidy(self) -> None:
        """Make it as it was: all hosts up and connected, no jobs, nothing of users on them."""
        for host in self.hosts.values():
            if not host.is_up:
                await host.boot()
            await host.plug()
        resume = ("scontrol", "update", "NodeName=c1,c2", "State=RESUME")
        await self.controller.run(*resume, user=ROOT, check=False)  # which says so, if not drained
        for user in USERS:
            await self.controller.run("scancel", f"--user={user}", user=ROOT)
        await self._until_no_jobs()
        for host in self.hosts.values():
            for user in USERS:
                await host.run("pkill", "-KILL", "-u", user, user=ROOT, check=False)
        for user in USERS:
            print((await self.login1.run("sh", "-c", _CLEAN, user=user)).output)
        await self._ready()

    async def _until_no_jobs(self) -> None:
        with trio.move_on_after(READY):
            while (await self.controller.run("squeue", "--noheader", user=ROOT)).output:  # noqa: ASYNC110
                await trio.sleep(0.2)

    async def _survey(self) -> list[str]:
        survey = (str(environment.PYTHON), "-m", "tests.slurm.survey")
        users = tuple(map(str, USERS.values()))
        asked: list[tuple[Host, tuple[str, ...]]] = [(self.controller, ("mailboxes",))]
        asked += [(host, users) for host in self.hosts.values() if host.is_up]
        found: list[str] = []
        for host, words in asked:
            said = (await host.run(*survey, *words, user=ROOT)).output
            found += (f"{host.name}: {line}" for line in said.splitlines() if line)
        return found

    async def _stop(self, host: Host, daemon: str) -> None:
        await host.run("pkill", "-TERM", "-x", daemon, user=ROOT)
        while not (await host.run("pgrep", "-x", daemon, user=ROOT, check=False)).status:  # noqa: ASYNC110
            await trio.sleep(0.05)

    def _furnish(self) -> None:
        directory = self.cell.directory
        make_private(directory / "sockets")
        shutil.copytree(ETC, self.etc)
        (self.etc / "site.conf").write_text(f"ProctrackType=proctrack/{self.tracking}\n")
        (self.etc / PLUGSTACK).write_text("# none\n")
        (self.etc / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.etc / "munge.key").chmod(0o600)
        self.etc.chmod(0o755)
        self.install()

    async def _mount(self) -> None:
        run = self.cell.machine.run
        shared = self.cell.volatile / "shared"
        await run("mkdir", "-p", str(shared / "home"), str(shared / "scratch"))
        await run("chmod", "755", str(shared), str(shared / "home"))
        await run("chmod", "1777", str(shared / "scratch"))
        for user, number in USERS.items():
            owner = ("-o", str(number), "-g", str(number), "-m", "700")
            await run("install", "-d", *owner, str(shared / "home" / user))
        if self.tracking == "cgroup":
            await self._mount_freezer()

    async def _mount_freezer(self) -> None:
        run = self.cell.machine.run
        freezer = str(self.cell.volatile / "freezer")
        await run("mkdir", freezer)
        options = ("-t", "cgroup", "-o", "freezer", "cgroup", freezer)
        if (await run("mount", *options, check=False)).status:
            raise LabError("this machine has no freezer of cgroup v1: take linuxproc instead")

    async def _ready(self) -> None:
        """Wait until the controller can start jobs on both nodes."""
        question = ("sinfo", "--noheader", "--Node", "--format=%T")
        said = ""
        with trio.move_on_after(READY):
            while True:
                answer = await self.login1.run(*question, check=False)
                states = answer.output.split()
                if len(states) == 2 and set(states) <= {"idle", "mixed", "allocated"}:
                    return
                said = answer.output + answer.errors
                await trio.sleep(0.1)
        raise LabError(f"Slurm's nodes are not ready after {READY} s: {said.strip()}")

    def _print_logs(self) -> None:
        for log in sorted(self.cell.directory.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')}")
