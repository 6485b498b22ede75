"""A tunnel's sessions in memory: a filesystem for each."""

from __future__ import annotations

from collections import defaultdict

import attrs
import trio

from muxfs.endpoint.slots import Slots
from muxfs.storage.base import Storage
from muxfs.testing import MemoryFilesystem, MemoryStorage
from tests.forwards.harness import NAMES


@attrs.define
class MemoryTunnel:
    """The files of all sessions, and who has opened storage on them."""

    files: dict[int, MemoryFilesystem] = attrs.field(
        factory=lambda: defaultdict(MemoryFilesystem), init=False
    )

    def slots(self, role: str) -> MemorySlots:
        """Return it as one side sees it."""
        return MemorySlots(self, role)


@attrs.define
class MemorySlots(Slots):
    """The sessions as one side sees them."""

    tunnel: MemoryTunnel
    role: str
    storages: list[tuple[int, MemoryStorage]] = attrs.field(factory=list, init=False)
    """What was handed out so far, by session."""

    async def prepare(self, number: int) -> str:
        await trio.lowlevel.checkpoint()
        return str(number)

    def storage(self, number: int) -> Storage:
        storage = self.tunnel.files[number].storage(*NAMES[self.role])
        self.storages.append((number, storage))
        return storage

    def operations(self, number: int | None = None) -> int:
        """Count the operations of this side, in one session or in all."""
        return sum(
            storage.operations.total
            for session, storage in self.storages
            if number is None or session == number
        )
