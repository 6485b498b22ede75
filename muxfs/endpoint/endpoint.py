"""One end of a tunnel while it runs: forwards come and go, connections are carried.

Rule 1: nothing here prints; what happens is reported as values.
Rule 2: a forward that is cancelled takes no more clients; those that it has go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

import attrs
import trio

from muxfs.config import SessionConfig
from muxfs.core.link import previous_life
from muxfs.core.wire import HEAD_LENGTH, Code, Role
from muxfs.endpoint.dialling import DiallingSide
from muxfs.endpoint.events import Report, SessionChange
from muxfs.endpoint.listening import ListeningSide, find_rival
from muxfs.endpoint.slots import Slots, prepared
from muxfs.errors import AlreadyRunning, MuxfsError
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.carrier import Carrier, Load
from muxfs.forwards.consent import Policy
from muxfs.forwards.datagram_listener import DatagramListener
from muxfs.forwards.events import Refused
from muxfs.forwards.incoming import serve_streams
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import open_port
from muxfs.forwards.remote import RemoteListener, Requests
from muxfs.forwards.sessions import Sessions
from muxfs.forwards.spec import Forward, Kind
from muxfs.forwards.splice import Transfer
from muxfs.forwards.tcp import Connection
from muxfs.info import Change, PeerInfo
from muxfs.occupancy import already_running, is_taken
from muxfs.session import Session, open_session
from muxfs.storage.base import Progress
from muxfs.storage.budget import Allowance

DESCRIPTORS_OF_A_PROGRAM: Final = 2
"""Of its data and of its control connection: `join` counts both."""
RESERVED: Final = 40
"""Descriptors that connections leave to everything else: mailboxes, dialling, libraries."""
RESERVED_FOR_A_SESSION: Final = 8
"""Descriptors of each session more."""

DEFAULT_SESSIONS: Final = 4

ActiveForward: TypeAlias = ForwardListener | DatagramListener | RemoteListener
"""A forward that runs: `forward` says which, `bound` where clients reach it."""


@attrs.frozen
class EndpointConfig:
    """What one end is asked to be."""

    role: Literal["listen", "dial"]
    slots: Slots
    """Where the sessions of the tunnel are."""
    session: SessionConfig = attrs.field(factory=SessionConfig)
    """Of each session, but that `max_ops` is for all of them together."""
    most_sessions: int = DEFAULT_SESSIONS
    """Listening ends that the dialling one serves at once; to be the same on both sides."""
    connect_timeout: float = 30.0
    """Seconds that a client is held without a session, and that a target may take to answer."""
    policy: Policy = attrs.field(factory=Policy)
    """What this end is willing to do for the other one."""
    admission: Admission = OWN_USER
    descriptors: int | None = None
    """Open files that this process may have; they bound the connections."""


class Endpoint:
    """One end of a tunnel; made by `open_endpoint`."""

    def __init__(
        self,
        config: EndpointConfig,
        report: Report,
        progress: Progress | None,
        session_nursery: trio.Nursery,
        forward_nursery: trio.Nursery,
    ) -> None:
        self.config = config
        self.sessions = Sessions()
        self.body = trio.CancelScope()
        """Around what the user does; cancelled when the end fails."""
        self.failure: Exception | None = None
        self._report = report
        self._progress = progress
        self._session_nursery = session_nursery
        self._forward_nursery = forward_nursery
        self._load = Load()
        self._carrier = Carrier(self.sessions, report, self._load)
        self._allowance = Allowance(config.session.max_ops)
        self._requests = Requests()
        self._forwards: list[ActiveForward] = []
        self._opened = trio.Event()
        self._leaving = trio.Event()
        self._bound_connections()

    async def start(self) -> None:
        """Find a session and open it; the other side may come later.

        If that fails, or the end fails later, the body is cancelled and `open_endpoint` raises.
        """
        self._session_nursery.start_soon(self._run)
        self._forward_nursery.start_soon(self._load.answers.watch)
        await self._opened.wait()

    async def find_rival(self) -> AlreadyRunning | None:
        """Find another end of this role that is at work on this host. Raises OSError."""
        config = self.config
        life = await find_rival(
            config.slots, config.most_sessions, Role[config.role.upper()], config.session
        )
        return already_running(life) if life is not None else None

    async def find_dialler(self) -> PeerInfo | None:
        """Find a dialling end in session 0, where this listening end has another one.

        None where there is none, or where nobody can tell.
        """
        config = self.config
        if config.role != "listen" or 0 in self.sessions.by_number:
            return None
        storage = config.slots.storage(0)
        try:
            blocks = (await prepared(config.slots, 0, config.session)).blocks()
            head = await storage.reader.read(0, HEAD_LENGTH)
        except (OSError, MuxfsError):
            return None
        finally:
            await storage.aclose()
        life = previous_life(head, Role.DIAL, blocks)
        if life is None or is_taken(life) is False:
            return None
        return PeerInfo.of(life.birth)

    @property
    def forwards(self) -> tuple[ActiveForward, ...]:
        """The forwards that run."""
        return tuple(self._forwards)

    async def add_forward(self, forward: Forward) -> ActiveForward:
        """Open the forward's port and carry its clients. Raises as `open_port`.

        The far side is asked for a remote one, again and again where needed: its `answer`
        says how that went.
        """
        active = await self._activate(forward)
        self._forwards.append(active)
        self._bound_connections()
        self._forward_nursery.start_soon(active.run)
        return active

    async def _activate(self, forward: Forward) -> ActiveForward:
        carrier, config = self._carrier, self.config
        if forward.kind is Kind.REMOTE:
            return RemoteListener(self.sessions, self._report, self._requests, forward)
        port = await open_port(forward, config.admission)
        if forward.kind is Kind.UDP:
            return DatagramListener(carrier, port, config.admission)
        return ForwardListener(
            carrier, port, config.admission, connect_timeout=config.connect_timeout
        )

    async def cancel_forward(self, active: ActiveForward) -> None:
        """Close the forward's port; connections that it carries go on. Again is no harm."""
        if active in self._forwards:
            self._forwards.remove(active)
        await active.stop()
        self._bound_connections()

    async def join(
        self, connection: Connection, target: str, originator: str, timeout: float
    ) -> Transfer | Refused:
        """Carry a connection of a local program to a target of the far side, until its end.

        timeout: seconds that it is held without a session. Takes the connection over.
        """
        load = self._load
        if self._carrier.full:
            connection.reset()
            reason = f"{load.connections} connections are open (see ulimit -n)"
            return Refused(originator, target, Code.LIMIT, reason)
        load.connections += DESCRIPTORS_OF_A_PROGRAM
        try:
            return await self._carrier.join(connection, target, originator, timeout)
        finally:
            load.connections -= DESCRIPTORS_OF_A_PROGRAM

    @property
    def busy(self) -> bool:
        """Whether connections are carried, or held until they can be."""
        return self._load.connections > 0

    @property
    def streams_seen(self) -> int:
        """Streams that the open sessions have had: it changes while the end is in use."""
        return sum(session.stats().opened for session in self.sessions.by_number.values())

    async def _run(self) -> None:
        config = self.config
        what = config.slots, config.most_sessions, config.session
        running: ListeningSide | DiallingSide
        if config.role == "listen":
            running = ListeningSide(*what, self._serve, self._report, self._leaving)
        else:
            running = DiallingSide(*what, self._serve, self._report, self._leaving, self._allowance)
        try:
            await running.run(self._opened.set)
        except Exception as error:  # noqa: BLE001  (raised by `open_endpoint`)
            self.failure = error
            self.body.cancel()

    async def _serve(
        self,
        number: int,
        session_config: SessionConfig,
        until: Callable[[Session], Awaitable[None]],
    ) -> None:
        """Open one session, and serve it until `until` returns."""
        config = self.config
        opening = open_session(
            "",
            role=config.role,
            config=await prepared(config.slots, number, session_config),
            storage=config.slots.storage(number),
            progress=self._progress,
            allowance=self._allowance,
        )
        async with opening as session:
            changes = session.changes()  # before the first checkpoint, so that none is missed
            with self.sessions.including(number, session):
                self._bound_connections()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow, number, changes)
                    nursery.start_soon(self._load.watch, session, session.changes())
                    nursery.start_soon(self._serve_streams, session)
                    await until(session)
                    nursery.cancel_scope.cancel()

    async def _follow(self, number: int, changes: trio.MemoryReceiveChannel[Change]) -> None:
        async with changes:
            async for change in changes:
                self._report(SessionChange(number, change))

    async def _serve_streams(self, session: Session) -> None:
        config = self.config
        await serve_streams(
            session,
            Carrier(session, self._report, self._load),
            config.policy,
            config.admission,
            connect_timeout=config.connect_timeout,
            requests=self._requests,
        )

    def _bound_connections(self) -> None:
        descriptors = self.config.descriptors
        if descriptors is not None:
            ports = sum(active.descriptors for active in self._forwards)
            more = max(0, len(self.sessions.by_number) - 1) * RESERVED_FOR_A_SESSION
            self._load.most = max(1, descriptors - RESERVED - more - ports)

    def leave(self) -> None:
        """Let the sessions end in good order."""
        self._leaving.set()
        if not self.sessions.by_number:  # one may be looked for, for long
            self._session_nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_endpoint(
    config: EndpointConfig, report: Report, *, progress: Progress | None = None
) -> AsyncIterator[Endpoint]:
    """Have one end of a tunnel for as long as the body lasts; its `start` opens the session.

    `report` is told what happens to connections and sessions. Raises AlreadyRunning,
    SessionError, OSError as `open_session`, and what `config.slots` raises; then the body
    is cancelled. Exceptions of the body pass unchanged.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as session_nursery:
        async with trio.open_nursery() as forward_nursery:
            endpoint = Endpoint(config, report, progress, session_nursery, forward_nursery)
            try:
                with endpoint.body:
                    yield endpoint
            except BaseException as error:  # noqa: BLE001  (raised again below, unwrapped)
                failure = error
            forward_nursery.cancel_scope.cancel()
        if failure is None:
            endpoint.leave()
        else:
            session_nursery.cancel_scope.cancel()
    if endpoint.failure is not None and isinstance(failure, trio.Cancelled | None):
        raise endpoint.failure
    if failure is not None:
        raise failure
