"""Carries connections through a session, and resets them when that session is lost."""

from __future__ import annotations

from typing import Final

import trio

from muxfs.core.wire import Code
from muxfs.errors import StreamEnded, printable
from muxfs.forwards.events import REFUSALS, Ended, Opened, Refused, Report
from muxfs.forwards.splice import Transfer, splice
from muxfs.forwards.tcp import Connection
from muxfs.info import Lost, PeerInfo
from muxfs.session import Session
from muxfs.stream import MuxStream

MAX_HELD: Final = 4096
"""Clients that wait for a session at once; more are reset."""


class Carrier:
    """All connections that one end carries, or holds until it can."""

    def __init__(
        self, session: Session, report: Report, max_connections: int | None = None
    ) -> None:
        """max_connections: at once; the session itself needs descriptors, too."""
        self.session = session
        self.report = report
        self.max_connections = max_connections
        self.connections = 0
        self._held = 0
        self._changes = session.changes()
        self._carried: dict[trio.CancelScope, PeerInfo | None] = {}

    @property
    def full(self) -> bool:
        """Whether no more connections should be taken now."""
        return self.max_connections is not None and self.connections >= self.max_connections

    async def watch(self) -> None:
        """Reset connections whose session is over, until cancelled.

        Most notice by themselves. One whose client has stopped reading does not: it
        waits for the client, not for its stream.
        """
        async with self._changes:
            async for change in self._changes:
                if not isinstance(change, Lost):
                    continue
                for scope, peer in self._carried.items():
                    if peer is not self.session.peer:  # the next session may stand already
                        scope.cancel()

    async def open(self, target: str, originator: str, timeout: float) -> MuxStream | Refused:
        """Begin a stream, as soon as there is a session; its first data does not wait.

        timeout: seconds. Raises SessionError if the session is over for good.
        """
        if self._held >= MAX_HELD:
            reason = f"more than {MAX_HELD} connections wait for a session"
            return Refused(originator, target, Code.LIMIT, reason)
        self._held += 1
        try:
            with trio.move_on_after(timeout):
                while True:
                    await self.session.wait_can_open()
                    try:
                        return self.session.start_stream(target, originator)
                    except trio.BrokenResourceError:
                        continue  # the session was lost again, or another task was first
        finally:
            self._held -= 1
        within = f"within {timeout:g} s"
        reason = f"the other side took no more streams {within}"
        if self.session.peer is None:
            reason = f"no session with the other side {within}"
        return Refused(originator, target, Code.TIMEOUT, reason)

    async def carry(
        self, connection: Connection, stream: MuxStream, originator: str, target: str = ""
    ) -> None:
        """Carry a connection until its end, and report that. Takes both over.

        target: where it leads, if that is not what the stream's target says.
        """
        target = printable(target or stream.target)
        self.report(Opened(originator, target))
        transfer = Transfer()
        with trio.CancelScope() as scope:
            self._carried[scope] = self.session.peer
            try:
                await splice(connection, stream, transfer)
            finally:
                del self._carried[scope]
        cause = transfer.error.__cause__ if transfer.error else None
        if isinstance(cause, StreamEnded) and cause.code in REFUSALS:
            self.report(Refused(originator, target, cause.code, cause.reason))
        else:
            clean = transfer.clean
            self.report(Ended(originator, target, transfer.sent, transfer.received, clean))
