"""The session of a listening end: which of the tunnel's it takes, and when it moves on.

The lowest that is free is taken: one whose listener never was, has said that it ended, or
is known to be dead (its process was on this host). Whether the others are alive would
have to be watched for seconds, so that they are tried only when none is free.

Two ends that choose the same at the same instant find out within a second or so, from
their incarnations; the one that has to leave takes the next.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeAlias

import attrs
import trio

from muxfs import occupancy
from muxfs.config import SessionConfig
from muxfs.core.link import PreviousLife
from muxfs.core.wire import Code, Role
from muxfs.endpoint.events import Report, SessionMoved
from muxfs.endpoint.slots import Slots, prepared
from muxfs.errors import AlreadyRunning, SessionError
from muxfs.info import PeerInfo
from muxfs.session import Session

Serve: TypeAlias = Callable[
    [int, SessionConfig, Callable[[Session], Awaitable[None]]], Awaitable[None]
]
"""Opens the session of that number and serves it until the last argument returns."""

PATIENCE: Final = 60.0
"""Seconds for which an end that has lost its session to another one tries again what fails."""
RETRY: Final = 1.0
"""Seconds between tries."""


@attrs.define
class ListeningSide:
    """Keeps one session open."""

    slots: Slots
    most: int
    config: SessionConfig
    serve: Serve
    report: Report
    leaving: trio.Event
    """Set when the end is to end."""
    _number: int = attrs.field(default=0, init=False)

    async def run(self, opened: Callable[[], None]) -> None:
        """Keep a session open until `leaving`; `opened` is called when it is.

        Raises AlreadyRunning if all are in use; SessionError; OSError, MuxfsError.
        """
        takeover, patient_until = self.config.takeover, -math.inf
        lost: SessionError | None = None
        while not self.leaving.is_set():
            try:
                if lost is not None:
                    await self._move_on(lost)
                    lost = None
                await self._serve_one(takeover, opened)
            except SessionError as error:
                if error is lost or error.code is not Code.SUPERSEDED:
                    raise
                lost, patient_until = error, trio.current_time() + PATIENCE
            except OSError:  # of the file server, or no thread: it may pass
                if trio.current_time() >= patient_until:
                    raise
                await trio.sleep(RETRY)
            takeover = False

    async def _serve_one(self, takeover: bool, opened: Callable[[], None]) -> None:
        async def until(_session: Session) -> None:
            opened()
            await self.leaving.wait()

        lives: list[PreviousLife] = []
        async with aclosing(self._choices(takeover, lives)) as choices:
            async for number, taken in choices:
                self._number = number
                config = attrs.evolve(self.config, takeover=takeover and taken)
                try:
                    await self.serve(number, config, until)
                except AlreadyRunning:
                    continue
                return
        raise _all_in_use(self.most, lives)

    async def _choices(
        self, takeover: bool, lives: list[PreviousLife]
    ) -> AsyncGenerator[tuple[int, bool], None]:
        """Go through sessions to try, with whether somebody is to be driven out of it.

        `lives` is filled with those who had taken the others.
        """
        free: list[int] = []
        taken: list[int] = []
        unknown: list[int] = []
        for number in range(self.most):
            life = await self._last_life(number)
            state = occupancy.is_taken(life)
            if state is False:
                if not takeover:
                    yield number, False
                free.append(number)
            else:
                (taken if state else unknown).append(number)
            if life is not None and state is not False:
                lives.append(life)
        if takeover:
            for number in (taken or unknown)[:1]:
                yield number, True
            for number in free:
                yield number, False
        else:
            for number in unknown:
                yield number, False

    async def _last_life(self, number: int) -> PreviousLife | None:
        config = await prepared(self.slots, number, self.config)
        return await occupancy.last_life(self.slots.storage(number), Role.LISTEN, config.blocks())

    async def _move_on(self, lost: SessionError) -> None:
        """Raise `lost` if the other one took over from this process on purpose."""
        life = await self._last_life(self._number)
        if life is not None and occupancy.names_this(life):
            raise lost
        self.report(SessionMoved(self._number))


async def find_rival(
    slots: Slots, most: int, role: Role, config: SessionConfig
) -> PreviousLife | None:
    """Find another end of that role that is at work on this host. Raises OSError, MuxfsError."""
    for number in range(most):
        blocks = (await prepared(slots, number, config)).blocks()
        life = await occupancy.last_life(slots.storage(number), role, blocks)
        if life is not None and occupancy.is_taken(life):
            return life
    return None


def _all_in_use(most: int, lives: list[PreviousLife]) -> AlreadyRunning:
    if most == 1 and lives:
        return occupancy.already_running(lives[0])
    # of those that started at this very moment nothing is known
    people = [PeerInfo.of(life.birth) for life in lives]
    who = ", ".join(f"{info.host or '?'} pid {info.pid or '?'}" for info in people)
    return AlreadyRunning(
        f"all {most} sessions of this tunnel are in use ({who}); end one, "
        "or allow more with --sessions on both sides"
    )
