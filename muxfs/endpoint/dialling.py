"""The sessions of a dialling end: one is always open, the others while somebody listens.

Session 0 is open all the time: it shows that this end is at work, and a single listener is
there at once. Of the others one reads, every few seconds, only the mailboxes in which a
listener may turn up: the lowest that is free, which new listeners take, and those whose
listener was killed (see `listening`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Final

import attrs
import trio

from muxfs import occupancy
from muxfs.config import SessionConfig
from muxfs.core import link, wire
from muxfs.core.link import PreviousLife
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks
from muxfs.core.wire import Incarnation, Role
from muxfs.endpoint.events import Report, SessionFailed
from muxfs.endpoint.listening import Serve
from muxfs.endpoint.slots import Slots, prepared
from muxfs.errors import AlreadyRunning, MuxfsError
from muxfs.info import Lost
from muxfs.session import Session
from muxfs.storage.base import Storage
from muxfs.storage.budget import Allowance, Budget

LOOK: Final = 2.0
"""Seconds between looks for new listeners, soon after this end or a further listener came."""
QUIET_LOOK: Final = 10.0
"""The same later: by then looks are a good part of what an end asks of its server."""
QUIET_AFTER: Final = 30.0
"""Seconds until it is later."""
UNUSED: Final = 30.0
"""Seconds without its listener until a session is closed; one that is restarted finds it open."""
RETRY: Final = 60.0
"""Seconds until a session that failed is tried again with the same listener."""
ALL: Final = 30
"""Of so many rounds of looks, one is for all: files may be changed by others, too."""
REFRESH: Final = 8
"""Looks at a file until its name is looked up again."""


@attrs.define
class _Slot:
    """What is known of the listener of one session that is not open."""

    number: int
    storage: Storage | None = None
    budget: Budget | None = None
    """Of the looks through that storage."""
    blocks: Blocks = CHECKSUM_BLOCKS
    """What its listener's file is read with."""
    open: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled when the end is to end: of the opening, and then of what the session is for."""
    free: bool = False
    """Whether a new listener would take it."""
    life: PreviousLife | None = None
    failed: Incarnation | None = None
    """The listener with which it failed."""
    retry_at: float = 0.0
    looks: int = 0

    async def forget_storage(self) -> None:
        """Close what is open of the mailboxes."""
        storage, self.storage = self.storage, None
        if self.budget is not None:
            self.budget.settle()
        if storage is not None:
            await storage.aclose()


@attrs.define
class DiallingSide:
    """Keeps the sessions open that are used."""

    slots: Slots
    most: int
    config: SessionConfig
    serve: Serve
    report: Report
    leaving: trio.Event
    """Set when the end is to end."""
    allowance: Allowance
    """Operations that the looks have in common with the sessions; none waits for it."""

    async def run(self, opened: Callable[[], None]) -> None:
        """Serve until `leaving`; `opened` is called when the first session is open.

        Raises AlreadyRunning if another end dials here; SessionError; OSError, MuxfsError.
        """

        async def until(first: Session) -> None:
            opened()
            async with trio.open_nursery() as nursery:
                watching = trio.CancelScope()
                nursery.start_soon(self._watch, first, nursery, watching)
                await self.leaving.wait()
                watching.cancel()

        await self.serve(0, self.config, until)

    async def _watch(
        self, first: Session, nursery: trio.Nursery, watching: trio.CancelScope
    ) -> None:
        """Look for listeners, and serve them in the nursery, until `watching` is cancelled."""
        slots = [_Slot(number) for number in range(1, self.most)]
        try:
            with watching:
                for slot in slots:
                    try:
                        slot.blocks = (
                            await prepared(self.slots, slot.number, self.config)
                        ).blocks()
                    except (OSError, MuxfsError) as error:
                        self.report(SessionFailed(slot.number, str(error)))
                changed = trio.current_time()
                for rounds in itertools.count():
                    if await self._look_at_all(slots, first, nursery, even_free=not rounds % ALL):
                        changed = trio.current_time()
                    quiet = trio.current_time() - changed > QUIET_AFTER
                    await trio.sleep(QUIET_LOOK if quiet else LOOK)
        finally:
            for slot in slots:
                slot.scope.cancel()
            with trio.CancelScope(shield=True):
                for slot in slots:
                    await slot.forget_storage()

    async def _look_at_all(
        self, slots: list[_Slot], first: Session, nursery: trio.Nursery, *, even_free: bool
    ) -> bool:
        """Look where a listener may turn up; `even_free`: where none should, too.

        Returns whether one did.
        """
        found, one_is_free = False, first.vacant
        for slot in slots:
            if slot.open or (slot.free and one_is_free and not even_free):
                continue
            if await self._look(slot):
                slot.open = found = True
                slot.scope = trio.CancelScope()
                nursery.start_soon(self._serve_slot, slot)
            one_is_free = one_is_free or slot.free
        return found

    async def _look(self, slot: _Slot) -> bool:
        """Look at the listener's mailbox; whether somebody new seems to be there."""
        if slot.storage is None:
            slot.storage = self.slots.storage(slot.number)
            slot.budget = Budget(slot.storage.operations, self.allowance)
        try:
            slot.looks += 1
            if slot.looks % REFRESH == 0:
                await slot.storage.reader.refresh()
            life = await _listener(slot.storage, slot.blocks)
        except OSError:
            return False  # the sessions that are open tell of it
        before, slot.life = slot.life, life
        slot.free = life is None or life.ended
        if life is None or life.ended or (before is not None and before.signs == life.signs):
            return False
        if life.birth.incarnation == slot.failed and trio.current_time() < slot.retry_at:
            return False
        # a killed one stays where it was; of another host only the first look is on trust
        return occupancy.is_taken(life) is not False

    async def _serve_slot(self, slot: _Slot) -> None:
        """Serve a session until nobody uses it; nothing that goes wrong is for the others."""

        async def until(session: Session) -> None:
            with trio.CancelScope() as slot.scope:  # what is open ends in good order
                await _until_unused(session)
                with contextlib.suppress(OSError):  # in a nursery it would end all sessions
                    slot.life = await _listener(session.storage, slot.blocks)

        await slot.forget_storage()
        try:
            # the end that this one took the tunnel over from is about to leave this one, too
            config = attrs.evolve(self.config, takeover=False)
            with slot.scope:
                await self.serve(slot.number, config, until)
        except AlreadyRunning:
            slot.life = None
        except (OSError, MuxfsError) as error:
            slot.failed = slot.life.birth.incarnation if slot.life else None
            slot.retry_at = trio.current_time() + RETRY
            self.report(SessionFailed(slot.number, str(error)))
        finally:
            slot.open = False


async def _until_unused(session: Session) -> None:
    """Wait until the session has been without its listener for long."""
    async with session.changes() as changes:
        while True:
            with trio.move_on_after(UNUSED) as patience:
                await session.wait_established()
            if patience.cancelled_caught:
                return
            while not isinstance(await changes.receive(), Lost):
                pass


async def _listener(storage: Storage, blocks: Blocks) -> PreviousLife | None:
    head = await storage.reader.read(0, wire.HEAD_LENGTH)
    return link.previous_life(head, Role.LISTEN, blocks)
