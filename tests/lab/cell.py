"""Namespaces of the lab's own: its processes, network and mounts vanish with them.

The first process in them is a shell that waits for the agent; whoever kills it ends
everything that the lab has started, guests and file servers and mounts.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import attrs
import trio

from .packages import NAMESPACES, SYSTEM_PATH
from .remote import LabError, Machine

CHECKOUT = Path(__file__).parents[2]
START = 30.0
"""Seconds until the agent must answer."""
NETWORK = "10.77.0"


@attrs.define(eq=False)
class Cell:
    """Namespaces, with a directory on the host for the agent's socket and the logs."""

    directory: Path

    @property
    def machine(self) -> Machine:
        """The agent in it."""
        return Machine("cell", str(self._socket))

    @property
    def volatile(self) -> Path:
        """A tmpfs that only those inside see, for disks and memory of guests."""
        return self.directory / "volatile"

    @property
    def _log(self) -> Path:
        return self.directory / "cell.log"

    @property
    def _socket(self) -> Path:
        return self.directory / "agent.sock"

    async def open(self) -> subprocess.Popen[bytes]:
        """Make it. It lives until the process's stdin is closed, or told to "stay"."""
        process = await trio.to_thread.run_sync(self._start)
        with trio.move_on_after(START):
            while not await self.machine.answers():
                if process.poll() is not None:
                    break
                await trio.sleep(0.05)
            else:
                await self._furnish()
                return process
        words = self._log.read_text(errors="replace").strip()
        raise LabError(f"no namespaces of its own for the lab: {words or 'it does not answer'}")

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        make_private(self.directory)
        self.volatile.mkdir()
        agent = (sys.executable, "-m", "tests.lab.agent", str(self._socket))
        with self._log.open("wb") as log:
            return subprocess.Popen(
                ["unshare", *NAMESPACES, "bash", "-c", '"$0" "$@"; exit', *agent],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PATH": SYSTEM_PATH},
                start_new_session=True,
            )

    async def _furnish(self) -> None:
        run = self.machine.run
        await run("mount", "-t", "tmpfs", "-o", "size=90%,mode=700", "tmpfs", str(self.volatile))
        await run("ip", "link", "set", "lo", "up")
        await run("ip", "link", "add", "br0", "type", "bridge")
        await run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "br0")
        await run("ip", "link", "set", "br0", "up")

    def is_alive(self) -> bool:
        """Whether somebody lives in it."""
        return self._agent() is not None

    def close(self) -> None:
        """End all that lives in it, and remove the directory."""
        agent = self._agent()
        if agent is not None:
            _kill_and_wait(_parent(agent))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def _agent(self) -> int | None:
        """Return the agent's process id; no other process can be taken for it."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            size = struct.calcsize("iII")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("iII", credentials)[0])


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return int(status.split()[1])


def _kill_and_wait(pid: int) -> None:
    with open(os.pidfd_open(pid), "rb") as descriptor:
        signal.pidfd_send_signal(descriptor.fileno(), signal.SIGKILL)
        select.select([descriptor], [], [])


def make_private(directory: Path) -> None:
    """Make a directory that nobody else can have prepared."""
    for step in (directory.parent, directory):
        step.mkdir(mode=0o700, exist_ok=True)
        if step.stat().st_uid != os.geteuid():
            raise LabError(f"{step} belongs to somebody else")
