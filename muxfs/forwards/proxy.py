"""Clients of the proxies: they say first where they want to go, and are told how it went."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import StreamRefused, printable
from muxfs.forwards.admission import Admission
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Refused
from muxfs.forwards.greeting import Greeting, Request, Unserved
from muxfs.forwards.routes import Route
from muxfs.forwards.socks import Command, SocksRequest
from muxfs.forwards.socks_udp import associate
from muxfs.forwards.tcp import Connection
from muxfs.stream import MuxStream

GREETING_TIME: Final = 30.0
"""Seconds that a client may take to say what it wants."""
GREETING_READ: Final = 4096


@attrs.define(eq=False)
class ProxyClient:
    """One client of a proxy that listens here."""

    carrier: Carrier
    connection: Connection
    originator: str
    route: Route
    admission: Admission
    connect_timeout: float

    async def serve(self, greeting: Greeting) -> None:
        """Serve the client to its end; closes the connection, unless it raises SessionError."""
        try:
            request = await self._greet(greeting)
            if request is None:
                self.connection.close()
            elif isinstance(request, SocksRequest) and request.command is Command.UDP_ASSOCIATE:
                await associate(self.carrier, self.connection, request, self.route, self.admission)
            else:
                await self._connect(request, greeting.rest)
        except OSError:
            self.connection.reset()  # the client is gone

    async def _greet(self, greeting: Greeting) -> Request | None:
        """Let the client say what it wants; None if it does not. Raises OSError."""
        with trio.move_on_after(GREETING_TIME):
            while greeting.request is None:
                data = await self.connection.receive(GREETING_READ)
                if not data:
                    break
                try:
                    answer = greeting.receive(data)
                except Unserved as error:
                    reason = printable(str(error))
                    self.carrier.report(Refused(self.originator, "", Code.PROTOCOL, reason))
                    await self._part(error.answer)
                    break
                if answer:
                    await self.connection.send_all(answer)
        return greeting.request

    async def _connect(self, request: Request, rest: bytes) -> None:
        target = str(request.target)
        stream = await self.carrier.open(
            self.route.text(target), self.originator, self.connect_timeout
        )
        if isinstance(stream, Refused):
            await self._refuse(request, stream)
            return
        try:
            bound = await self._answer(stream, target, rest)
            if isinstance(bound, Refused):
                await stream.abort()
                await self._refuse(request, bound)
                return
            await self._begin(request.granted(bound), rest, stream)
        except StreamRefused as error:
            refused = Refused(self.originator, printable(target), error.code, error.reason)
            await self._refuse(request, refused)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.abort()
            raise
        else:
            await self.carrier.carry(self.connection, stream, self.originator, target)

    async def _answer(self, stream: MuxStream, target: str, rest: bytes) -> str | Refused:
        """Wait for the far side's answer, which says where it is bound. Raises StreamRefused."""
        bound = ""
        with (
            trio.CancelScope() as scope,
            self.carrier.load.answers.awaited(
                stream, self.connection.sock, self.connect_timeout, lambda: bool(rest), scope.cancel
            ) as awaited,
        ):
            bound = await stream.wait_accepted()
        if awaited.given_up and scope.cancelled_caught:
            return Refused(self.originator, printable(target), *awaited.given_up)
        return bound

    async def _begin(self, answer: bytes, rest: bytes, stream: MuxStream) -> None:
        """Pass on what was said before the two were joined. Raises OSError."""
        await self.connection.send_all(answer)
        if rest:
            # if that fails, carrying it finds out how the stream ended
            with suppress(trio.BrokenResourceError):
                await stream.send_all(rest)

    async def _refuse(self, request: Request, refused: Refused) -> None:
        self.carrier.report(refused)
        await self._part(request.refused(refused.code, refused.reason))

    async def _part(self, answer: bytes) -> None:
        """Tell the client how it went, and close. Raises OSError."""
        if answer:
            await self.connection.send_all(answer)
        self.connection.send_eof()
        await self.connection.finish()
