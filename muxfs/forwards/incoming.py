"""Streams of the far side: each is carried to what it asks for, or refused with the reason.

Rule 1: only what a `Policy` allows is done; it is asked before any name is resolved.
Rule 2: each stream ends in ACCEPT or in a refusal that says why, in time.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import printable
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.consent import Policy, Refusal
from muxfs.forwards.datagrams import relay
from muxfs.forwards.dialer import dial, dial_loopback, explain_errno, open_datagrams
from muxfs.forwards.events import Ended, Opened, Refused
from muxfs.forwards.lending import Lender
from muxfs.forwards.patterns import exactly
from muxfs.forwards.remote import Requests
from muxfs.forwards.spec import AnyTarget, SpecError, Target
from muxfs.forwards.targets import Asked, Datagrams, Forwarded, Listen, decode
from muxfs.forwards.tcp import Connection, address_text
from muxfs.session import Session
from muxfs.stream import MuxStream

MAX_DIALS: Final = 128
"""Targets that are dialled at once; more wait. Well below the usual 1024 descriptors."""
MAX_DATAGRAM_STREAMS: Final = 512
"""Associations of the far side that have a socket here."""


async def serve_streams(
    session: Session,
    carrier: Carrier,
    policy: Policy,
    admission: Admission = OWN_USER,
    *,
    connect_timeout: float,
    requests: Requests | None = None,
) -> None:
    """Take streams of the session's far side and carry each to its target, until cancelled.

    carrier: of that session, so that what comes of a stream goes back the same way.
    admission: who may use listeners that the far side asks for. connect_timeout: seconds
    that a target may take to answer. requests: what this side asked the far side to
    listen for.
    """
    lender = Lender(carrier, policy, admission, connect_timeout)
    server = _Server(session, carrier, policy, connect_timeout, requests or Requests(), lender)
    listener = session.listen(auto_accept=False)
    async with listener, trio.open_nursery() as nursery:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return  # the session is over for good, and tells its owner itself
            nursery.start_soon(server.serve, stream)


@attrs.define(eq=False)
class _Server:
    """Serves the streams of one session's far side."""

    session: Session
    carrier: Carrier
    policy: Policy
    connect_timeout: float
    requests: Requests
    lender: Lender
    _dials: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_DIALS))
    _datagram_streams: int = attrs.field(default=0, init=False)

    async def serve(self, stream: MuxStream) -> None:
        """Serve one stream to its end."""
        carrier = self.carrier
        if carrier.full:
            await self._refuse(stream, explain_errno(printable(stream.target), errno.EMFILE))
            return
        with carrier.load.one_more():
            try:
                refusal = await self._answer(stream)
                if refusal is not None:
                    await self._refuse(stream, refusal)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await stream.abort()
                raise

    async def _answer(self, stream: MuxStream) -> Refusal | None:
        try:
            asked: Asked = decode(stream.target)
        except SpecError as error:
            return Refusal(Code.PROHIBITED, str(error))
        policy = self.policy
        if isinstance(asked, Forwarded):
            found = self._own(asked)
            if isinstance(found, Refusal):
                return found
            asked, policy = found
        if isinstance(asked, Listen):
            return await self.lender.lend(stream, asked)
        datagrams = isinstance(asked, Datagrams)
        target = policy.meant(asked.target if isinstance(asked, Datagrams) else asked)
        if isinstance(target, Refusal):
            return target
        if datagrams and isinstance(target, Target):
            return await self._relay(stream, Datagrams(target), policy)
        return await self._carry(stream, target, policy)

    def _own(self, asked: Forwarded) -> tuple[AnyTarget | Datagrams, Policy] | Refusal:
        """Find what a connection to a listener that this side asked for leads to."""
        forward = self.requests.find(asked.number, self.session)
        if forward is None:
            return Refusal(Code.PROHIBITED, f"no listener {asked.number} was asked for")
        if forward.target is not None:
            return forward.target, Policy((exactly(forward.target),))
        if asked.target is None:
            return Refusal(Code.PROHIBITED, f"listener {asked.number} is one for SOCKS")
        return asked.target, self.policy.of_own_socks

    async def _carry(self, stream: MuxStream, target: AnyTarget, policy: Policy) -> Refusal | None:
        found = await self._dial(stream, target, policy)
        if isinstance(found, Refusal):
            return found
        stream.accept_now(found.local)
        await self.carrier.carry(found, stream, printable(stream.originator), str(target))
        return None

    async def _dial(
        self, stream: MuxStream, target: AnyTarget, policy: Policy
    ) -> Connection | Refusal:
        """Dial, unless the client leaves meanwhile: its slot is for those that wait."""
        begun = dial_loopback(target, policy)
        if isinstance(begun, Connection):
            return begun
        found: Connection | Refusal = Refusal(Code.CANCELLED, f"{target}: the client has left")

        async def leave() -> None:
            await stream.wait_given_up()
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                async with self._dials:
                    found = await dial(target, policy, self.connect_timeout, begun)
                nursery.cancel_scope.cancel()
        except BaseException:  # the end leaves at the moment that it connected
            if isinstance(found, Connection):
                found.reset()
            raise
        finally:
            if begun is not None:
                begun.close()  # unless it has become a connection
        return found

    async def _relay(self, stream: MuxStream, asked: Datagrams, policy: Policy) -> Refusal | None:
        if self._datagram_streams >= MAX_DATAGRAM_STREAMS:
            words = f"{asked}: {MAX_DATAGRAM_STREAMS} associations are in use"
            return Refusal(Code.LIMIT, words)
        self._datagram_streams += 1
        try:
            async with self._dials:
                found = await open_datagrams(asked.target, policy, self.connect_timeout)
            if isinstance(found, Refusal):
                return found
            with found:
                await self._relay_until_end(found, stream, asked)
        finally:
            self._datagram_streams -= 1
        return None

    async def _relay_until_end(
        self, sock: socket.socket, stream: MuxStream, asked: Datagrams
    ) -> None:
        originator, target = printable(stream.originator), printable(str(asked))
        await stream.accept(address_text(sock.getsockname()))
        self.carrier.report(Opened(originator, target))
        done = await relay(sock, stream)
        self.carrier.report(Ended(originator, target, done.sent, done.received, clean=True))

    async def _refuse(self, stream: MuxStream, why: Refusal) -> None:
        originator, target = printable(stream.originator), printable(stream.target)
        self.carrier.report(Refused(originator, target, why.code, printable(why.reason)))
        await stream.refuse(why.code, why.reason)
