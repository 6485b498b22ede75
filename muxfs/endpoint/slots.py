"""The places of a tunnel's sessions, numbered from 0: two mailboxes each, made when used."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import Literal

import attrs

from muxfs.blocking import in_own_thread
from muxfs.config import SessionConfig
from muxfs.core.wire import Role
from muxfs.sealing.key import session_name
from muxfs.session import mailboxes
from muxfs.storage.base import Storage


class Slots(abc.ABC):
    """Where the sessions of one tunnel have their mailboxes, as one side sees it."""

    @abc.abstractmethod
    async def prepare(self, number: int) -> str:
        """Make the place of that session, where it is missing. Raises OSError, MuxfsError.

        Returns its name: the same on both sides, and another one for each session.
        """

    @abc.abstractmethod
    def storage(self, number: int) -> Storage:
        """Return new storage for that session; nothing is touched yet."""


async def prepared(slots: Slots, number: int, config: SessionConfig) -> SessionConfig:
    """Make the place of a session; return its configuration: a key is good for it alone."""
    name = await slots.prepare(number)
    return config if config.key is None else attrs.evolve(config, key=config.key.named(name))


@attrs.frozen
class DirectorySlots(Slots):
    """Directories `PATH/N`."""

    path: str
    role: Literal["listen", "dial"]
    make: Callable[[str], None]
    """Makes a directory, and checks it if it exists. May block."""
    config: SessionConfig

    async def prepare(self, number: int) -> str:  # noqa: D102
        path = os.path.join(self.path, str(number))

        def make() -> str:
            # also where it exists: on NFS, mkdir corrects what the client believes of the name
            self.make(path)
            return session_name(path)

        # not in one of the common threads, which names that the far side asks for may keep busy
        return await in_own_thread(make)

    def storage(self, number: int) -> Storage:  # noqa: D102
        path = os.path.join(self.path, str(number))
        return mailboxes(path, Role[self.role.upper()], self.config)
