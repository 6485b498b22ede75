"""Listeners on the far side (-R): asked for, kept, and asked for again.

A request is a stream that stays open as long as the listener lives. Connections come
back as streams that name the request by its number, and only numbers of requests that
stand are served, each with its own target.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, NoReturn, TypeAlias

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import SessionError, StreamEnded, StreamRefused, ending_of, printable
from muxfs.forwards.events import REFUSALS, Listening, NotListening, Report
from muxfs.forwards.sessions import Sessions
from muxfs.forwards.spec import Forward
from muxfs.forwards.targets import Listen, Service
from muxfs.info import PeerInfo
from muxfs.session import Session
from muxfs.stream import MuxStream

LEAST_PAUSE: Final = 1.0
MOST_PAUSE: Final = 60.0
"""Seconds after a refusal until the far side is asked again; doubled each time."""

Answer: TypeAlias = Listening | NotListening


@attrs.define
class Requests:
    """The requests of one end that stand, by number."""

    _standing: dict[int, tuple[Session, Forward]] = attrs.field(factory=dict, init=False)
    _next: int = attrs.field(default=0, init=False)

    def add(self, forward: Forward, session: Session) -> int:
        """Note a request before it is made; return its number, which is never used again."""
        self._next += 1
        self._standing[self._next] = session, forward
        return self._next

    def remove(self, number: int) -> None:
        """Forget a request: connections that are on their way are refused."""
        del self._standing[number]

    def find(self, number: int, session: Session) -> Forward | None:
        """Return the forward of a request of that session that stands."""
        asked, forward = self._standing.get(number, (None, None))
        return forward if asked is session else None


class RemoteListener:
    """One listener on the far side, or on each where there are several sessions."""

    descriptors = 0
    """Open files that it takes on this side."""

    def __init__(
        self, sessions: Sessions, report: Report, requests: Requests, forward: Forward
    ) -> None:
        self.forward = forward
        self.answer: Answer | None = None
        """What a far side said last."""
        self.answered = trio.Event()
        """Set when it has said something."""
        self.report = report
        self.requests = requests
        self._sessions = sessions
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    @property
    def bound(self) -> str:
        """Where clients connect to on the far side; "" while it does not listen."""
        return self.answer.bound if isinstance(self.answer, Listening) else ""

    async def run(self) -> None:
        """Ask for it in each session, again after refusals, until cancelled or stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    async for session in self._sessions.each():
                        nursery.start_soon(_Asker(self, session).run)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Let the far side stop listening; connections that it accepted go on."""
        self._scope.cancel()
        await self._stopped.wait()


@attrs.define(eq=False)
class _Asker:
    """Asks the far side of one session."""

    listener: RemoteListener
    session: Session
    _answer: Answer | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        """Ask until the session is over for good."""
        with suppress(SessionError):  # which tells its owner itself
            await self._keep_asking()

    async def _keep_asking(self) -> NoReturn:
        pause = LEAST_PAUSE
        while True:
            peer = await self.session.wait_established()
            ending = await self._ask()
            if ending is None or ending.code not in REFUSALS:
                # it had stood; now the session or the listener is over
                self._answer = self.listener.answer = None
                pause = LEAST_PAUSE
                await self._another(peer, LEAST_PAUSE)
                continue
            option = self.listener.forward.option
            self._note(NotListening(option, ending.code, ending.reason))
            if ending.code is Code.PROHIBITED:
                # only another process there could say something else
                await self._another(peer, math.inf)
            else:
                await self._another(peer, pause)
                pause = min(2 * pause, MOST_PAUSE)

    async def _ask(self) -> StreamEnded | None:
        """Ask once, and wait for the end of the listener; return what ended it."""
        forward, requests = self.listener.forward, self.listener.requests
        service = Service.SOCKS if forward.target is None else Service.PLAIN
        number = requests.add(forward, self.session)
        try:
            text = str(Listen(number, service, forward.place))
            stream = await self.session.open_stream(text)
            self._note(Listening(forward.option, printable(await stream.wait_accepted())))
            return await wait_end(stream)
        except StreamRefused as error:
            return error
        finally:
            requests.remove(number)

    def _note(self, answer: Answer) -> None:
        if answer != self._answer:
            self.listener.report(answer)
        self._answer = self.listener.answer = answer
        self.listener.answered.set()

    async def _another(self, peer: PeerInfo, most: float) -> None:
        """Wait until the session has another peer, `most` seconds at the most."""
        with trio.move_on_after(most), suppress(trio.EndOfChannel):
            async with self.session.changes() as changes:
                while self.session.peer is peer:
                    await changes.receive()


async def wait_end(stream: MuxStream) -> StreamEnded | None:
    """Wait until the far side ends a stream that carries nothing, and close it."""
    try:
        while await stream.receive_buffer(1 << 10):
            pass  # of no meaning in this version
    except trio.BrokenResourceError as error:
        return ending_of(error)
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
    return None
