"""Changing how files are read and written, where the way in use is proven wrong.

The core says when there is doubt and which view shows more (`muxfs.core.doubt`); here
the others are asked. A peer that is merely silent changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from muxfs.core.doubt import Doubt, Sight, Standing
from muxfs.core.engine import Engine
from muxfs.info import AccessChanged, Change
from muxfs.storage.base import Storage

CHANCES: Final = 2
"""How often in a row the way in use may show what is new just after another one has. Once it
may have come that very moment; but it may also be the other way's doing (DONTNEED drops pages
for all), and then each piece of news would wait for a doubt."""


class Escalation:
    """Looks into doubts of one side, and changes the strategies of its storage."""

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        publish: Callable[[Change], None],
        kick_writer: Callable[[], None],
    ) -> None:
        self.count = 0
        """How often a strategy was changed."""
        self._engine = engine
        self._storage = storage
        self._publish = publish
        self._kick_writer = kick_writer
        self._doubt = Doubt()
        self._lot = trio.lowlevel.ParkingLot()
        self._chances = 0

    def consider(self, now: float) -> None:
        """Look whether there is reason to doubt; after each read, so that a dead server is none."""
        if self._lot and self._is_possible:
            standing = self._engine.standing
            unheard = self._doubt.writing_due(standing)
            if unheard or self._doubt.reading_due(standing, now):
                self._lot.unpark()

    async def run(self) -> None:
        """Look into doubts; never returns."""
        while True:
            await self._lot.park()
            standing = self._engine.standing
            try:
                if self._doubt.writing_due(standing):
                    self._doubt.strengthened(standing)
                    await self._write_surer()
                else:
                    try:
                        await self._ask_others(standing)
                    finally:  # what fails is not tried again with each poll
                        self._doubt.asked(trio.current_time())
            except OSError:
                pass  # reading and writing fail too then, and tell

    @property
    def _is_possible(self) -> bool:
        return bool(self._storage.reader.others) or self._storage.writer.stronger is not None

    async def _ask_others(self, standing: Standing) -> None:
        reader = self._storage.reader
        before = await self._see(standing)
        for name in reader.others:
            try:
                sight = standing.see(await reader.read_by(name, standing.extents))
            except OSError:
                continue
            if sight.shows_more_than(before):
                break
            if not (before.present or sight.present):
                return  # nobody is there
        else:
            self._chances = 0
            return
        self._chances += 1
        stale = sight.shows_more_than(await self._see(standing))
        if stale or self._chances >= CHANCES:
            await self._change(reader.adopt, name)

    async def _see(self, standing: Standing) -> Sight:
        """See what the way in use shows."""
        reader = self._storage.reader
        return standing.see([await reader.read(*extent) for extent in standing.extents])

    async def _write_surer(self) -> None:
        name = self._storage.writer.stronger
        if name is not None:
            await self._change(self._storage.writer.adopt, name)
            self._engine.restore()
            self._kick_writer()

    async def _change(self, adopt: Callable[[str], Awaitable[None]], name: str) -> None:
        before = self._storage.strategy
        await adopt(name)
        self._chances = 0
        self.count += 1
        self._publish(AccessChanged(before, self._storage.strategy))
