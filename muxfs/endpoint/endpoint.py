"""One end of a tunnel while it runs: forwards come and go, connections are carried.

Rule 1: nothing here prints; what happens is reported as values.
Rule 2: a forward that is cancelled takes no more clients; those that it has go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

import attrs
import trio

from muxfs.config import SessionConfig
from muxfs.core.wire import Code
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.carrier import Carrier, Load
from muxfs.forwards.consent import Policy
from muxfs.forwards.datagram_listener import DatagramListener
from muxfs.forwards.events import Refused, Report
from muxfs.forwards.incoming import serve_streams
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import open_port
from muxfs.forwards.remote import RemoteListener, Requests
from muxfs.forwards.sessions import Sessions
from muxfs.forwards.spec import Forward, Kind
from muxfs.forwards.splice import Transfer
from muxfs.forwards.tcp import Connection
from muxfs.info import Change
from muxfs.sealing.key import session_name
from muxfs.session import Session, open_session
from muxfs.storage.base import Progress, Storage
from muxfs.stream import MuxStream

DESCRIPTORS_OF_A_PROGRAM: Final = 2
"""Of its data and of its control connection: `join` counts both."""
RESERVED: Final = 40
"""Descriptors that connections leave to everything else: mailboxes, dialling, libraries."""

ActiveForward: TypeAlias = ForwardListener | DatagramListener | RemoteListener
"""A forward that runs: `forward` says which, `bound` where clients reach it."""


@attrs.frozen
class EndpointConfig:
    """What one end is asked to be."""

    role: Literal["listen", "dial"]
    path: str
    """The directory of the session's mailbox files, which must exist."""
    session: SessionConfig = attrs.field(factory=SessionConfig)
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
        self, config: EndpointConfig, session: Session, nursery: trio.Nursery, report: Report
    ) -> None:
        self.config = config
        self.session = session
        self._nursery = nursery
        self._sessions = Sessions()
        self._load = Load()
        self._report = report
        self._carrier = Carrier(self._sessions, report, self._load)
        self._requests = Requests()
        self._forwards: list[ActiveForward] = []
        self._bound_connections()
        nursery.start_soon(self._load.watch, session, session.changes())
        nursery.start_soon(self._serve, session)

    def changes(self) -> trio.MemoryReceiveChannel[Change]:
        """Subscribe to changes of the session's state."""
        return self.session.changes()

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
        self._nursery.start_soon(active.run)
        return active

    async def _activate(self, forward: Forward) -> ActiveForward:
        carrier, config = self._carrier, self.config
        if forward.kind is Kind.REMOTE:
            return RemoteListener(self._sessions, self._report, self._requests, forward)
        port = await open_port(forward, config.admission)
        if forward.kind is Kind.UDP:
            return DatagramListener(carrier, port, config.admission)
        return ForwardListener(
            carrier, port, config.admission, connect_timeout=config.connect_timeout
        )

    async def cancel_forward(self, active: ActiveForward) -> None:
        """Close the forward's port; connections that it carries go on."""
        self._forwards.remove(active)
        await active.stop()
        self._bound_connections()

    async def connect(self, target: str, originator: str) -> MuxStream | Refused:
        """Begin a stream to a target of the far side, as soon as there is a session.

        Raises SessionError if the session is over for good.
        """
        return await self._carrier.open(target, originator, self.config.connect_timeout)

    async def join(
        self, connection: Connection, target: str, originator: str, timeout: float
    ) -> Transfer | Refused:
        """Carry a connection of a local program to a target of the far side, until its end.

        timeout: seconds that it is held without a session. Takes the connection over.
        Raises SessionError if the session is over for good.
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

    async def _serve(self, session: Session) -> None:
        config = self.config
        with self._sessions.including(0, session):
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
            self._load.most = max(1, descriptors - RESERVED - ports)


@asynccontextmanager
async def open_endpoint(
    config: EndpointConfig,
    report: Report,
    *,
    progress: Progress | None = None,
    storage: Storage | None = None,
) -> AsyncIterator[Endpoint]:
    """Run one end of a tunnel for as long as the body lasts.

    `report` is told what happens to connections. Raises as `open_session`.
    """
    opening = open_session(
        config.path,
        role=config.role,
        config=await _with_named_key(config),
        storage=storage,
        progress=progress,
    )
    failure: BaseException | None = None
    async with opening as session:
        async with trio.open_nursery() as nursery:
            endpoint = Endpoint(config, session, nursery, report)
            try:
                yield endpoint
            except BaseException as error:  # noqa: BLE001  (raised again below, unwrapped)
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _with_named_key(config: EndpointConfig) -> SessionConfig:
    """Have the key be good for this session of this tunnel only."""
    session = config.session
    if session.key is None:
        return session
    # abandoned where the file server hangs, so that Ctrl-C works
    name = await trio.to_thread.run_sync(session_name, config.path, abandon_on_cancel=True)
    return attrs.evolve(session, key=session.key.named(name))
