"""The directory in which the doctor's own files stand, and the files.

    TUNNEL/doctor/

Rule: each file has one writer and, but for the two slots (`meeting`), a name of its own
that is never used again: network filesystems go on believing in a deleted file for half
a minute. Who made a file removes it. What a killed doctor left, a later one removes, once
it has been silent for longer than any doctor works.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from typing import Final

import attrs

from muxfs.doctor.patience import Patience
from muxfs.storage.access import Access, DirectRead, FdatasyncWrite, ReadAccess
from muxfs.storage.base import Buffer, Operations
from muxfs.storage.files import Filler, Opener, OwnFile, PeerFile

DIRECTORY: Final = "doctor"
STALE_AFTER: Final = 120.0
"""Seconds by the file server's clock without a change, until a file counts as left behind."""


class SurestWrite(FdatasyncWrite):
    """O_DSYNC and fdatasync: what must arrive, whatever a filesystem takes lightly."""

    name = "dsync and fdatasync"
    flags = os.O_DSYNC


def surest() -> Access:
    """Return the access that was right on every filesystem measured."""
    return Access(DirectRead(), SurestWrite())


@attrs.frozen
class OwnProbe:
    """A file that this side writes."""

    name: str
    path: str
    file: OwnFile

    def write(self, offset: int, *buffers: Buffer) -> None:
        """Write as the strategy does it."""
        with self.file.writing as descriptor:
            self.file.access.write.write(descriptor, offset, buffers)

    def read(self, offset: int, length: int) -> bytes:
        """Read back, by another descriptor, as the strategy does it."""
        with self.file.checking as descriptor:
            return self.file.access.read.read(descriptor, offset, length)

    @property
    def is_direct(self) -> bool:
        """Whether `read` really bypasses the cache: not where O_DIRECT was refused."""
        with self.file.checking as descriptor:
            return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


@attrs.frozen
class PeerProbe:
    """A file that the other side writes, opened once and kept open."""

    file: PeerFile

    def read(self, offset: int, length: int) -> bytes:
        """Read as the strategy does it."""
        with self.file.reading as descriptor:
            return self.file.read.read(descriptor, offset, length)


class ProbeDirectory:
    """The directory of the probe files. Making it may block while the server is down.

    Raises OSError, as all its methods do; `create` also Halted.
    """

    def __init__(self, tunnel: str, patience: Patience) -> None:
        self.path = os.path.join(tunnel, DIRECTORY)
        self.nonce = secrets.token_hex(8)
        """Names this doctor; its files begin with it."""
        self._patience = patience
        self._opener = Opener(self.path, Operations())
        self._made: dict[str, OwnFile] = {}
        self._make()

    def name(self, what: str) -> str:
        """Return the name of a file of this doctor."""
        return f"{self.nonce}-{what}"

    def create(self, name: str, access: Access, size: int) -> OwnProbe:
        """Create a file of `size` bytes, really written, as a mailbox is."""
        file = self._open_own(name, access)
        self._made[name] = file
        try:
            Filler(file, self._opener.operations, threading.Event()).fill(size, self._filled)
        except BaseException:
            self._remove(name)
            raise
        return OwnProbe(name, self._opener.path(name), file)

    def open(self, name: str, strategy: ReadAccess) -> PeerProbe | None:
        """Open a file of the other side; None where there is none."""
        file = self._opener.open_peer(name, strategy)
        return None if file is None else PeerProbe(file)

    def show_names(self) -> None:
        """Have the other side see names that were made here some time ago."""
        self._opener.show_names()

    def remove(self, probe: OwnProbe) -> None:
        """Close and remove a file of this side."""
        self._remove(probe.name)

    def leave(self, probe: OwnProbe) -> None:
        """Close a file, and leave it to somebody else."""
        self._made.pop(probe.name).close()

    def sweep(self, reference: OwnProbe) -> None:
        """Remove what killed doctors left; `reference` was written just now.

        Both times are the file server's, so that no two clocks are compared.
        """
        with reference.file.writing as descriptor:
            now = os.fstat(descriptor).st_mtime
        for name in os.listdir(self.path):
            with contextlib.suppress(OSError):
                path = self._opener.path(name)
                if name not in self._made and now - os.lstat(path).st_mtime > STALE_AFTER:
                    os.unlink(path)

    def clean_up(self) -> None:
        """Remove this doctor's files, and the directory if nobody else is in it."""
        for name in tuple(self._made):
            self._remove(name)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def _filled(self, _done: int, _size: int) -> None:
        self._patience.check()

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)

    def _open_own(self, name: str, access: Access) -> OwnFile:
        try:
            try:
                return self._opener.open_own(name, access)
            except FileNotFoundError:  # another doctor has just left, and removed the directory
                self._make()
                return self._opener.open_own(name, access)
        except OSError:
            if name.startswith(self.nonce):  # made, but refused: it belongs to somebody else
                with contextlib.suppress(OSError):
                    os.unlink(self._opener.path(name))
            raise

    def _remove(self, name: str) -> None:
        # closed first: what is open is only renamed on NFS, and stays until it is closed
        self._made.pop(name).close()
        with contextlib.suppress(OSError):
            os.unlink(self._opener.path(name))
