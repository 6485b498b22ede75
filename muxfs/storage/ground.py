"""What both mailboxes of a session stand on: their directory, its filesystem, threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from muxfs.storage.access import Access
from muxfs.storage.base import Extent, Operations
from muxfs.storage.choices import Kind
from muxfs.storage.crew import Crew
from muxfs.storage.files import Opener, PeerFile
from muxfs.storage.filesystem import Filesystem, default_access, find_filesystem
from muxfs.storage.ranges import Ranges

THREADS: Final = 20
"""Worker threads of one storage at most, the abandoned ones included."""


class Ground:
    """Directory, filesystem, strategies in use, threads. Blocks."""

    def __init__(self, directory: str, access: Access | None, any_owner: bool) -> None:
        self.directory = os.path.abspath(directory)
        self.operations = Operations()
        self.opener = Opener(self.directory, self.operations, any_owner)
        self.filesystem: Filesystem | None = None
        self.access = access
        self._asked_for = access is not None
        self.crew = Crew(THREADS)
        self.writing = Ranges()
        """Of the own file, under way."""

    def resolve(self) -> Access:
        """Find out the filesystem, once; in a worker thread, since the server may be down."""
        if self.filesystem is None:
            try:
                self.filesystem = find_filesystem(self.directory)
            except FileNotFoundError:
                self.opener.look_up_afresh()
                self.filesystem = find_filesystem(self.directory)
            local = self.filesystem.kind is not Kind.NETWORK
            self.opener = attrs.evolve(self.opener, local=local)
        if self.access is None:
            self.access = default_access(self.filesystem)
        return self.access

    @property
    def may_change(self) -> bool:
        """Whether the access may be changed when it turns out to be wrong.

        Not what the user asked for, nor where one kernel has the only cache.
        """
        found = self.filesystem
        return found is not None and found.kind is Kind.NETWORK and not self._asked_for

    @contextlib.contextmanager
    def changing(self, access: Access) -> Iterator[None]:
        """Use other strategies from the `with` block on, unless what it opens with them fails."""
        before, self.access = self.access, access
        try:
            yield
        except BaseException:
            self.access = before
            raise

    def open_peer(self, name: str) -> PeerFile | None:
        """Open a file of that name for reading; None where there is none. Raises OSError."""
        read = self.resolve().read  # first: it may replace the opener
        return self.opener.open_peer(name, read)

    def read(self, file: PeerFile, offset: int, length: int) -> bytes:
        """Read from an open file, and count."""
        with file.reading as descriptor:
            self.operations.count_read(file.read.metadata)
            return file.read.read(descriptor, offset, length)

    def read_once(self, file: PeerFile, extents: Sequence[Extent]) -> list[bytes]:
        """Read from an open file, and close it."""
        try:
            return [self.read(file, *extent) for extent in extents]
        finally:
            file.close()
