"""Carries connections through sessions, and resets them when their session is lost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Final

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import ending_of, printable
from muxfs.forwards.answers import Answers
from muxfs.forwards.events import REFUSALS, Ended, Opened, Refused, Report
from muxfs.forwards.sessions import Opener
from muxfs.forwards.splice import Transfer, splice
from muxfs.forwards.tcp import Connection
from muxfs.info import Change, Lost, PeerInfo
from muxfs.session import Session
from muxfs.stream import MuxStream

MAX_HELD: Final = 4096
"""Clients that wait for a session at once; more are reset."""


FIRST: Final = 16 << 10
"""Bytes that a client may have sent already, and that go out with the OPEN: a batch less."""


@attrs.define
class Load:
    """The connections of one end, in all its sessions together."""

    most: int | None = None
    """At once; the sessions themselves need descriptors, too."""
    connections: int = 0
    held: int = 0
    """Clients that wait for a session."""
    carried: dict[Transfer, tuple[Session, PeerInfo | None]] = attrs.field(factory=dict)
    answers: Answers = attrs.field(factory=Answers)
    """Who waits for the far side's answer."""

    @contextlib.contextmanager
    def one_more(self, count: int = 1) -> Iterator[None]:
        """Count a connection, or what takes as many descriptors as some."""
        self.connections += count
        try:
            yield
        finally:
            self.connections -= count

    async def watch(self, session: Session, changes: trio.MemoryReceiveChannel[Change]) -> None:
        """Reset connections whose session is over, until that ends for good.

        Most notice by themselves. One whose client has stopped reading does not: it
        waits for the client, not for its stream.
        """
        async with changes:
            async for change in changes:
                if isinstance(change, Lost):
                    self._reset_lost(session)

    def _reset_lost(self, session: Session) -> None:
        for transfer, (carrying, peer) in self.carried.items():
            # the next session with another peer may stand already
            if carrying is session and peer is not session.peer:
                transfer.cancel()


class Carrier:
    """Carries connections through one session, or through all of an end."""

    def __init__(self, session: Opener, report: Report, load: Load | None = None) -> None:
        """load: where all connections of the end are counted."""
        self.session = session
        self.report = report
        self.load = load or Load()

    @property
    def full(self) -> bool:
        """Whether no more connections should be taken now."""
        return self.load.most is not None and self.load.connections >= self.load.most

    async def open(
        self, target: str, originator: str, timeout: float, first: bytes = b""
    ) -> MuxStream | Refused:
        """Begin a stream, as soon as there is a session; its first data does not wait.

        timeout: seconds. first: what goes out with it. Raises SessionError if the session is
        over for good.
        """
        load = self.load
        if load.held >= MAX_HELD:
            reason = f"more than {MAX_HELD} connections wait for a session"
            return Refused(originator, target, Code.LIMIT, reason)
        if not load.held:  # nobody was first
            with contextlib.suppress(trio.BrokenResourceError):
                return self.session.start_stream(target, originator, first)
        load.held += 1
        try:
            with trio.move_on_after(timeout):
                while True:
                    await self.session.wait_can_open()
                    try:
                        return self.session.start_stream(target, originator, first)
                    except trio.BrokenResourceError:
                        continue  # the session was lost again, or another task was first
        finally:
            load.held -= 1
        within = f"within {timeout:g} s"
        reason = f"the other side took no more streams {within}"
        if not self.session.established:
            reason = f"no session with the other side {within}"
        return Refused(originator, target, Code.TIMEOUT, reason)

    async def join(
        self, connection: Connection, text: str, originator: str, timeout: float, target: str = ""
    ) -> Transfer | Refused:
        """Open a stream to `text`, and carry a connection to its end. Takes it over.

        Raises as `open`.
        """
        first = connection.receive_now(FIRST)
        try:
            stream = await self.open(text, originator, timeout, first)
        except BaseException:
            connection.reset()
            raise
        if isinstance(stream, Refused):
            self.report(stream)
            connection.reset()
            return stream
        return await self.carry(connection, stream, originator, target, timeout, len(first))

    async def carry(
        self,
        connection: Connection,
        stream: MuxStream,
        originator: str,
        target: str = "",
        timeout: float = math.inf,
        sent: int = 0,
    ) -> Transfer:
        """Carry a connection until its end, and report that. Takes both over.

        target: where it leads, if that is not what the stream's target says. timeout: seconds
        that its target may take to answer, if it has not yet. sent: bytes of the connection
        that the stream has got already.
        """
        target = printable(target or stream.target)
        self.report(Opened(originator, target))
        transfer = Transfer(sent)
        with self.load.answers.awaited(
            stream, connection.sock, timeout, lambda: transfer.sent > 0, transfer.cancel
        ) as awaited:
            self.load.carried[transfer] = stream.session, stream.session.peer
            try:
                await splice(connection, stream, transfer)
            finally:
                del self.load.carried[transfer]
        ending = ending_of(transfer.error)
        if ending is not None and ending.code in REFUSALS:
            self.report(Refused(originator, target, ending.code, ending.reason))
        elif awaited.given_up:
            self.report(Refused(originator, target, *awaited.given_up))
        else:
            clean = transfer.clean
            self.report(Ended(originator, target, transfer.sent, transfer.received, clean))
        return transfer
