"""Listeners on the far side (-R): asked for, kept, and asked for again.

A request is a stream that stays open as long as the listener lives. Connections come
back as streams that name the request by its number, and only numbers of requests that
stand are served, each with its own target.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, NoReturn

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import SessionError, StreamEnded, StreamRefused, printable
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import REFUSALS, Listening, NotListening
from muxfs.forwards.spec import Forward
from muxfs.forwards.targets import Listen, Service
from muxfs.info import PeerInfo
from muxfs.stream import MuxStream

LEAST_PAUSE: Final = 1.0
MOST_PAUSE: Final = 60.0
"""Seconds after a refusal until the far side is asked again; doubled each time."""


@attrs.define
class Requests:
    """The requests of one session that stand, by number."""

    _standing: dict[int, Forward] = attrs.field(factory=dict, init=False)
    _next: int = attrs.field(default=0, init=False)

    def add(self, forward: Forward) -> int:
        """Note a request before it is made; return its number, which is never used again."""
        self._next += 1
        self._standing[self._next] = forward
        return self._next

    def remove(self, number: int) -> None:
        """Forget a request: connections that are on their way are refused."""
        del self._standing[number]

    def find(self, number: int) -> Forward | None:
        """Return the forward of a request that stands."""
        return self._standing.get(number)


class RemoteListener:
    """One listener on the far side."""

    descriptors = 0
    """Open files that it takes on this side."""

    def __init__(self, carrier: Carrier, requests: Requests, forward: Forward) -> None:
        self.forward = forward
        self.answer: Listening | NotListening | None = None
        """What the far side said last."""
        self.answered = trio.Event()
        """Set when it has said something."""
        self._carrier = carrier
        self._session = carrier.session
        self._requests = requests
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    @property
    def bound(self) -> str:
        """Where clients connect to on the far side; "" while it does not listen."""
        return self.answer.bound if isinstance(self.answer, Listening) else ""

    async def run(self) -> None:
        """Ask for it in each session, again after refusals, until cancelled or stopped."""
        try:
            with self._scope, suppress(SessionError):  # which tells its owner itself
                await self._keep_asking()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Let the far side stop listening; connections that it accepted go on."""
        self._scope.cancel()
        await self._stopped.wait()

    async def _keep_asking(self) -> NoReturn:
        pause = LEAST_PAUSE
        while True:
            peer = await self._session.wait_established()
            ending = await self._ask()
            if ending is None or ending.code not in REFUSALS:
                # it had stood; now the session or the listener is over
                self.answer, pause = None, LEAST_PAUSE
                await self._another(peer, LEAST_PAUSE)
                continue
            self._note(NotListening(self.forward.option, ending.code, ending.reason))
            if ending.code is Code.PROHIBITED:
                # only another process there could say something else
                await self._another(peer, math.inf)
            else:
                await self._another(peer, pause)
                pause = min(2 * pause, MOST_PAUSE)

    async def _ask(self) -> StreamEnded | None:
        """Ask once, and wait for the end of the listener; return what ended it."""
        forward = self.forward
        service = Service.SOCKS if forward.target is None else Service.PLAIN
        number = self._requests.add(forward)
        try:
            text = str(Listen(number, service, forward.place))
            stream = await self._session.open_stream(text)
            self._note(Listening(forward.option, printable(await stream.wait_accepted())))
            return await wait_end(stream)
        except StreamRefused as error:
            return error
        finally:
            self._requests.remove(number)

    def _note(self, answer: Listening | NotListening) -> None:
        if answer != self.answer:
            self._carrier.report(answer)
        self.answer = answer
        self.answered.set()

    async def _another(self, peer: PeerInfo, most: float) -> None:
        """Wait until the session has another peer, `most` seconds at the most."""
        with trio.move_on_after(most), suppress(trio.EndOfChannel):
            async with self._session.changes() as changes:
                while self._session.peer is peer:
                    await changes.receive()


async def wait_end(stream: MuxStream) -> StreamEnded | None:
    """Wait until the far side ends a stream that carries nothing, and close it."""
    try:
        while await stream.receive_buffer(1 << 10):
            pass  # of no meaning in this version
    except trio.BrokenResourceError as error:
        return error.__cause__ if isinstance(error.__cause__, StreamEnded) else None
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
    return None
