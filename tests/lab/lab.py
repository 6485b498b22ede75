"""What all labs have in common: one file server, and two clients with caches of their own.

A lab of another filesystem is a subclass: it says which programs it needs, brings its
server and its two clients up, and names what else can happen to them.
"""

from __future__ import annotations

import abc
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import trio

from . import packages
from .cell import Cell
from .remote import Completed, LabError, Machine, Process


@attrs.frozen
class Spec:
    """A filesystem and its mount options: `nfs4.2`, `nfs3+noac`, `nfs4.2+actimeo=60`."""

    filesystem: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read it. Raises LabError."""
        filesystem, *options = text.split("+")
        if not all(options) or "/" in text:
            raise LabError(f"{text!r} is no lab: give a filesystem and options, as nfs4.2+noac")
        return cls(filesystem, tuple(options))

    def __str__(self) -> str:
        return "+".join([self.filesystem, *self.options])


@attrs.frozen
class Client:
    """A machine that has the filesystem mounted; its commands run as an ordinary user."""

    machine: Machine
    path: Path
    """A directory that both clients share, writable for everybody; the same one at each."""

    async def run(self, *argv: str, **options: Any) -> Completed:
        """Run a command to its end; see `Machine.run`."""
        return await self.machine.run(*argv, **{"as_user": True} | options)

    async def start(self, nursery: trio.Nursery, *argv: str, **options: Any) -> Process:
        """Start a command; see `Machine.start`."""
        return await self.machine.start(nursery, *argv, **{"as_user": True} | options)


class Unsupported(LabError):
    """This lab has no such thing; a test that needs it is skipped."""


class Lab(abc.ABC):
    """One filesystem with a server and two clients."""

    programs: ClassVar[Sequence[Mapping[str, str]]] = ()
    """Programs to be there, and the packages that have them."""

    lingering: ClassVar[bool] = False
    """Whether a process that ends while the server stands still is there until it goes on."""
    full: ClassVar[tuple[int, str]] = (os.EX_CANTCREAT, "No space left on device")
    """How `muxfs` ends when the disk is full at its start, and what the filesystem says."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        self.spec = spec
        self.cell = Cell(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abc.abstractmethod
    def clients(self) -> tuple[Client, Client]:
        """The two clients, a and b."""

    @property
    @abc.abstractmethod
    def machines(self) -> Mapping[str, Machine]:
        """All machines that commands can be run on, by name: a, b and server at least."""

    @abc.abstractmethod
    async def _bring_up(self) -> None:
        """Start server and clients in the cell, and mount the filesystem."""

    async def up(self) -> None:
        """Bring it up afresh. It ends with this process, unless that calls `stay`."""
        packages.check(self.programs)
        self._process = await self.cell.open()
        try:
            await self._bring_up()
        except BaseException:
            self._print_logs()
            self.down()
            raise

    def stay(self) -> None:
        """Let it live on when this process ends."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"stay\n")
        self._process.stdin.close()

    def down(self) -> None:
        """End all of it; nothing is left."""
        self.cell.close()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def _print_logs(self) -> None:
        for log in sorted(self.cell.directory.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')}")

    # What can happen to a filesystem. A lab that has no such thing says so: Unsupported.

    def place(self, kind: str) -> Path:
        """Return another shared directory, at the same path on both clients.

        Kinds: "small", on a disk of 24 MiB; "squashed", where root is nobody; "readonly";
        "late", whose attributes each client caches for a minute.
        """
        raise Unsupported(f"the lab of {self.spec} has no directory of the kind {kind!r}")

    def on_server(self, path: Path) -> Path:
        """Return where the machine "server" has what the clients see at `path`."""
        raise Unsupported(f"the lab of {self.spec} has no files on its server")

    async def stop_server(self) -> None:
        """Stop serving, in good order; the clients' calls hang."""
        raise Unsupported(f"the lab of {self.spec} cannot stop its server")

    async def start_server(self) -> None:
        """Serve again after `stop_server`."""
        raise Unsupported(f"the lab of {self.spec} cannot start its server")

    async def crash_server(self) -> None:
        """End the server's machine at once."""
        raise Unsupported(f"the lab of {self.spec} cannot crash its server")

    async def restart_server(self) -> None:
        """Start the server's machine again after `crash_server`, with the same disks."""
        raise Unsupported(f"the lab of {self.spec} cannot restart its server")

    async def crash(self, client: Client) -> None:
        """End a client's machine at once, with all that runs on it."""
        raise Unsupported(f"the lab of {self.spec} cannot crash {client.machine.name}")

    async def restart(self, client: Client) -> None:
        """Start a client's machine again after `crash`, and mount the filesystem."""
        raise Unsupported(f"the lab of {self.spec} cannot restart {client.machine.name}")

    async def operations(self, client: Client) -> Mapping[str, int]:
        """Count what this client has asked of the server since it mounted, by operation.

        Empty where the filesystem's client does not count.
        """
        return {}


def home() -> Path:
    """Return the directory of all labs that were told to stay."""
    return Path(tempfile.gettempdir()) / f"muxfs-lab-{os.geteuid()}"
