"""Whether somebody is at work in a mailbox already (protocol.md, section 7).

Rule: nothing here writes. Only one process may ever write a mailbox, so that is found
out before anything is written; two that look at the same instant find out afterwards,
from their incarnations.
"""

from __future__ import annotations

from typing import Final

import trio

from muxfs import process
from muxfs.core import link, wire
from muxfs.core.link import PreviousLife
from muxfs.core.proof import Blocks
from muxfs.core.wire import ItemType, Role
from muxfs.errors import AlreadyRunning
from muxfs.info import PeerInfo
from muxfs.storage.base import Storage

LOOK: Final = 0.25
"""Seconds between looks at an own file whose last writer may be alive elsewhere."""


async def last_life(storage: Storage, role: Role, blocks: Blocks) -> PreviousLife | None:
    """Read who wrote the own file last; None where there is none. Raises OSError."""
    return link.previous_life(await storage.writer.previous(wire.HEAD_LENGTH), role, blocks)


def is_taken(life: PreviousLife | None) -> bool | None:
    """Whether the writer of that life is at work; None where only watching would tell."""
    if life is None or life.ended:
        return False
    writer = life.birth.text(ItemType.PROCESS)
    # this process lives, but the session of it that wrote the file may have ended without a word
    return None if writer == process.identity() else process.is_alive(writer)


async def refuse_duplicate(storage: Storage, role: Role, blocks: Blocks) -> None:
    """Raise AlreadyRunning if the own file's last writer is alive."""
    life = await last_life(storage, role, blocks)
    taken = is_taken(life)
    if life is None:
        return
    if taken or (taken is None and await _beats(storage, role, blocks, life)):
        raise already_running(life)


def already_running(life: PreviousLife) -> AlreadyRunning:
    """Say who is at work."""
    info = PeerInfo.of(life.birth)
    return AlreadyRunning(
        f"another muxfs {life.birth.role.name.lower()} is running on this tunnel: host "
        f"{info.host or '?'}, pid {info.pid or '?'}; end it, or pass --takeover"
    )


def names_this(life: PreviousLife) -> bool:
    """Whether that life took over from this process on purpose."""
    return life.birth.text(ItemType.REPLACES) == process.identity()


async def _beats(storage: Storage, role: Role, blocks: Blocks, life: PreviousLife) -> bool:
    """Watch a file of another host for longer than its heartbeat: a moving beat is life."""
    with trio.move_on_after(1.5 * life.birth.heartbeat / 1000 + 1):
        while True:
            await trio.sleep(LOOK)
            now = await last_life(storage, role, blocks)
            if now is not None and now.signs != life.signs:
                return not now.ended
    return False
