"""The places of a tunnel's sessions, numbered from 0: two mailboxes each, made when used."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import Literal

import attrs
import trio

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

        # abandoned where the file server hangs, so that Ctrl-C works; not one of the common
        # threads, which names that the far side asks for may keep busy
        return await trio.to_thread.run_sync(
            make, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )

    def storage(self, number: int) -> Storage:  # noqa: D102
        path = os.path.join(self.path, str(number))
        return mailboxes(path, Role[self.role.upper()], self.config)
