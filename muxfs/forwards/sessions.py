"""The sessions of one end: streams are opened in whichever stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from muxfs.errors import SessionError
from muxfs.info import Lost
from muxfs.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxfs.stream import MuxStream


class Opener(Protocol):
    """What opens streams: one session, or all of an end."""

    @property
    def established(self) -> bool:
        """Whether another side is there."""

    async def wait_can_open(self) -> None:
        """Wait until `start_stream` would work. Raises SessionError if it never will."""

    def start_stream(self, target: str = "", originator: str = "", data: bytes = b"") -> MuxStream:
        """Open a stream without waiting. Raises BrokenResourceError if none can be opened now.

        `data` is sent with it.
        """


class Sessions:
    """All sessions of one end, by number; they come and go."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._changed = trio.Event()
        self._line = trio.StrictFIFOLock()
        """Of those who wait: only the first one looks at all sessions."""

    @property
    def by_number(self) -> dict[int, Session]:
        """Those that are open now, in order."""
        return dict(sorted(self._sessions.items()))

    @property
    def established(self) -> bool:
        """Whether any of them stands."""
        return any(session.established for session in self._sessions.values())

    @property
    def carried(self) -> int:
        """Bytes that those which are open have written and read."""
        totals = [session.engine.totals for session in self._sessions.values()]
        return sum(total.written + total.read for total in totals)

    @contextmanager
    def including(self, number: int, session: Session) -> Iterator[None]:
        """Have this one among them."""
        self._sessions[number] = session
        self._change()
        try:
            yield
        finally:
            del self._sessions[number]
            self._change()

    async def each(self) -> AsyncIterator[Session]:
        """Go through those that are open and those that will be, until cancelled."""
        seen: set[Session] = set()
        while True:
            changed = self._changed
            now = list(self.by_number.values())
            seen.intersection_update(now)
            for session in now:
                if session not in seen:
                    seen.add(session)
                    yield session
            await changed.wait()

    def start_stream(self, target: str = "", originator: str = "", data: bytes = b"") -> MuxStream:
        """Open a stream without waiting, in the first session that takes one.

        Raises BrokenResourceError if none does; ValueError as the session's method.
        """
        for session in self.by_number.values():
            if session.can_open:
                return session.start_stream(target, originator, data)
        raise trio.BrokenResourceError("no session takes a stream now")

    async def wait_can_open(self) -> None:
        """Wait until `start_stream` would work; first come, first served."""
        async with self._line:
            while not any(session.can_open for session in self._sessions.values()):
                await self._wait_for_any(Session.wait_can_open)

    async def wait_established(self) -> None:
        """Wait until any of them stands."""
        while not self.established:
            await self._wait_for_any(Session.wait_established)

    async def wait_lost(self) -> None:
        """Wait until none of them stands."""
        while standing := [s for s in self._sessions.values() if s.established]:
            async with standing[0].changes() as changes:
                async for change in changes:
                    if isinstance(change, Lost):
                        break

    async def _wait_for_any(self, wait: Callable[[Session], Awaitable[object]]) -> None:
        """Wait until that is over for one of them, or they are others."""
        async with trio.open_nursery() as nursery:

            async def wait_for(session: Session) -> None:
                try:
                    await wait(session)
                except SessionError:
                    return  # it is over, and will be left out
                nursery.cancel_scope.cancel()

            for session in self._sessions.values():
                nursery.start_soon(wait_for, session)
            await self._changed.wait()
            nursery.cancel_scope.cancel()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
