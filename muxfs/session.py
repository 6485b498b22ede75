"""A session as a trio nursery: the embedding API over an engine and its pump.

Background tasks (`muxfs.pump`) never raise: what fails for good ends the session
with one `SessionError` out of `open_session`.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

import attrs
import trio

from muxfs import occupancy
from muxfs.config import SessionConfig
from muxfs.core import events, link, wire
from muxfs.core import stream as core
from muxfs.core.engine import Engine
from muxfs.core.multiplexer import OutOfStreams
from muxfs.core.stream import Ending
from muxfs.core.wire import Buffer, Code, ItemType, Role
from muxfs.errors import SessionError
from muxfs.info import (
    Change,
    Established,
    Lost,
    PeerInfo,
    Resumed,
    SessionState,
    SessionStats,
    Silent,
    Stranger,
)
from muxfs.pump import EAGER_SIZE, Pump
from muxfs.sealing.key import least_generation
from muxfs.storage.base import Progress, Storage
from muxfs.storage.budget import Allowance
from muxfs.storage.posix import PosixStorage
from muxfs.stream import MuxListener, MuxStream

FLUSH_TIMEOUT: Final = 5.0
"""Seconds without progress after which a session that ends leaves its streams' last bytes."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that it then takes at the most to tell the peer: the mount may hang."""

MOST_PATIENCE: Final = 30.0
"""Seconds to which both are raised where the measured round trip asks for it."""

LIVELY: Final = 0.25
"""Seconds after a small message in which other streams send less at once. While 2 MiB are taken
from a socket, written, read and given to another one, nothing else is done at either end."""

SHARED_TURN: Final = 256 << 10
"""Bytes that they send at once. An echo beside bulk on two cores: 2.4 ms with a MiB, 1.2 with
this, and the bulk stream has three quarters of its speed meanwhile."""

CHANGES_KEPT: Final = 256
RATE_PERIOD: Final = 1.0
"""Seconds over which operations a second are counted, at least."""


class Session:
    """One side of a tunnel; made by `open_session`.

    It outlives the peer: when that leaves or is restarted, streams end with a reset
    and the next session forms by itself.
    """

    def __init__(
        self, storage: Storage, engine: Engine, config: SessionConfig, allowance: Allowance
    ) -> None:
        self.storage = storage
        self.engine = engine
        self.config = config
        self.incoming_lot = trio.lowlevel.ParkingLot()
        self.failure: SessionError | None = None
        self.peer: PeerInfo | None = None
        self._streams: dict[core.Stream, MuxStream] = {}
        self._incoming: deque[MuxStream] = deque()
        self._state_lot = trio.lowlevel.ParkingLot()
        self._subscribers: list[trio.MemorySendChannel[Change]] = []
        self.body = trio.CancelScope()
        """Around what the user does; cancelled when the session fails."""
        self.pump = Pump(
            engine,
            storage,
            config.poll,
            config.heartbeat,
            self._dispatch,
            self._publish,
            allowance,
        )
        self._reported = (trio.current_time(), 0)
        self._rate = 0.0
        self._light: core.Stream | None = None
        """What sent a small message last, of those that send no others."""
        self._light_at = 0.0

    # What the application uses

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self.engine.state

    @property
    def closed(self) -> bool:
        """Whether it is over for good."""
        return self.engine.state is SessionState.CLOSED

    @property
    def established(self) -> bool:
        """Whether the other side is there, or was a moment ago."""
        return self.engine.established

    @property
    def vacant(self) -> bool:
        """Whether nobody is at the other side: not even one who was killed, or is silent."""
        return self.engine.vacant

    @property
    def can_open(self) -> bool:
        """Whether `start_stream` would work now."""
        return self.engine.can_open

    async def wait_established(self) -> PeerInfo:
        """Wait for the other side; return who it is. Raises SessionError if it is over."""
        await trio.lowlevel.checkpoint()
        while self.peer is None or not self.engine.established:
            self._check_open()
            await self._state_lot.park()
        return self.peer

    async def open_stream(self, target: str = "", originator: str = "") -> MuxStream:
        """Open a stream, as soon as the session stands and the other side allows one more.

        What `target` means is the other side's affair: `host:port` for `muxfs dial`.
        Raises StreamRefused with the reason; SessionError if the session is over;
        ValueError for a target of more than 1024 bytes.
        """
        await trio.lowlevel.checkpoint()
        while not self.engine.can_open:
            self._check_open()
            await self._state_lot.park()
        stream = self.start_stream(target, originator)
        try:
            await stream.wait_accepted()
        except BaseException:
            stream._abort(Ending(Code.CANCELLED))  # noqa: SLF001
            raise
        return stream

    def start_stream(self, target: str = "", originator: str = "", data: bytes = b"") -> MuxStream:
        """Open a stream without waiting: data may be sent before it is accepted.

        What is given here, up to 64 KiB, goes out with it. Raises BrokenResourceError if the
        session does not stand or no more streams are allowed now; ValueError as `open_stream`.
        """
        try:
            stream = self.engine.open_stream(target, originator)
        except OutOfStreams:
            raise trio.BrokenResourceError("no stream can be opened now") from None
        wrapped = self._wrap(stream)
        if data:
            self.send(stream, data)
        else:
            self.pump.kick_writer()
        return wrapped

    async def wait_can_open(self) -> None:
        """Wait until `start_stream` would work. Raises SessionError if the session is over."""
        await trio.lowlevel.checkpoint()
        while not self.engine.can_open:
            self._check_open()
            await self._state_lot.park()

    def listen(self, *, auto_accept: bool = True) -> MuxListener:
        """Listen for the streams that the other side opens.

        With `auto_accept=False` each must be answered by its `accept` or `refuse`.
        Streams that come while nobody listens wait, up to 256.
        """
        return MuxListener(self, auto_accept)

    def changes(self) -> trio.MemoryReceiveChannel[Change]:
        """Return a channel of the session's changes from now on, for logs.

        It ends with the session. A reader that is 256 changes behind misses some.
        """
        sender, receiver = trio.open_memory_channel[Change](CHANGES_KEPT)
        # those who left are forgotten here too: changes are rare, and subscribers may not be
        open_ones = [s for s in self._subscribers if s.statistics().open_receive_channels]
        self._subscribers = [*open_ones, sender]
        return receiver

    def stats(self) -> SessionStats:
        """Return this side's counters."""
        engine = self.engine
        totals = engine.totals
        return SessionStats(
            state=engine.state.value,
            streams=engine.open_streams,
            opened=totals.opened,
            bytes_written=totals.written,
            bytes_read=totals.read,
            in_flight=engine.in_flight,
            round_trip=engine.round_trip,
            operations=self.storage.operations.total,
            operations_per_second=round(self._rate, 2),
            torn=totals.torn,
            stale=totals.stale,
            rewritten=totals.rewritten,
            access=self.storage.strategy,
            escalations=self.pump.escalation.count,
        )

    # For streams and listeners

    def send(self, stream: core.Stream, data: Buffer) -> None:
        """Queue bytes of the application, which must not change any more."""
        self.engine.send(stream, data)
        small = len(data) <= EAGER_SIZE
        if small and stream.send.usual <= EAGER_SIZE:
            self._light, self._light_at = stream, self.pump.time()
        self.pump.kick_writer(eagerly=small)

    def turn(self, stream: core.Stream) -> int:
        """Return how many bytes of the stream are worth sending at once."""
        most = stream.send.largest_piece
        if self._light is None or self._light is stream:
            return most
        lively = self.pump.time() - self._light_at <= LIVELY
        return min(most, SHARED_TURN) if lively else most

    def take(self, stream: core.Stream, most: int) -> Buffer:
        """Take received bytes for the application."""
        data = self.engine.take(stream, most, self.pump.time())
        if stream.credit_due:
            self.pump.kick_writer()
        return data

    @property
    def has_incoming(self) -> bool:
        """Whether streams wait that nobody accepted yet."""
        return bool(self._incoming)

    def next_incoming(self) -> MuxStream | None:
        """Return the next stream that nobody accepted yet."""
        while self._incoming:
            stream = self._incoming.popleft()
            if stream._core.lost is None:  # noqa: SLF001
                return stream
        return None

    def stop_listening(self) -> None:
        """Refuse the streams that wait, and let other acceptors look again."""
        while (stream := self.next_incoming()) is not None:
            ending = Ending(Code.REFUSED, "nothing listens for streams any more")
            self.engine.refuse(stream._core, ending)  # noqa: SLF001
        self.pump.kick_writer()
        self.incoming_lot.unpark_all()

    def _wrap(self, stream: core.Stream) -> MuxStream:
        wrapped = self._streams[stream] = MuxStream(self, stream)
        return wrapped

    def _check_open(self) -> None:
        if self.closed:
            ending = self.engine.ending or Ending(Code.SHUTDOWN, "the session is over")
            raise self.failure or SessionError(ending.code, ending.reason)

    # Telling

    def _dispatch(self) -> None:
        """Pass on what the engine found out: to streams, waiters and subscribers."""
        for event in self.engine.take_events():
            self._tell(event)
        changes = self.engine.take_changes()
        for stream in changes.incoming:
            self._incoming.append(self._wrap(stream))
        if changes.incoming:
            self.incoming_lot.unpark_all()
        for stream in changes.touched:
            wrapped = self._streams.get(stream)
            if wrapped is None:
                continue
            wrapped.wake()
            if stream.ended or stream.lost:
                del self._streams[stream]
        if self._state_lot and self.engine.can_open:  # an answer or an end made room
            self._state_lot.unpark_all()

    def _tell(self, event: events.Event) -> None:
        match event:
            case events.Established(peer):
                self.peer = PeerInfo.of(peer)
                self._publish(Established(self.peer))
            case events.Lost(ending):
                self.peer = None
                # nobody may listen, and a peer that restarts again and again would fill it
                self._incoming = deque(s for s in self._incoming if s._core.lost is None)  # noqa: SLF001
                self._publish(Lost(ending.code, ending.reason))
            case events.Silent(seconds):
                self._publish(Silent(seconds))
            case events.Resumed():
                self._publish(Resumed())
            case events.Failed(ending):
                self.failure = SessionError(ending.code, ending.reason)
                self.body.cancel()
            case events.Strange(reason):
                self._publish(Stranger(reason))
            case events.Born():
                pass
        self._state_lot.unpark_all()
        self.incoming_lot.unpark_all()

    def _publish(self, change: Change) -> None:
        for sender in list(self._subscribers):
            try:
                sender.send_nowait(change)
            except trio.WouldBlock:
                pass  # the reader is far behind; `state` and `stats` still tell the truth
            except trio.BrokenResourceError:
                self._subscribers.remove(sender)

    def report(self) -> bytes:
        """Return the statistics that go into the mailbox's status, as JSON."""
        then, count = self._reported
        now, total = trio.current_time(), self.storage.operations.total
        if now - then >= RATE_PERIOD:
            self._rate = (total - count) / (now - then)
            self._reported = (now, total)
        return json.dumps(attrs.asdict(self.stats())).encode()

    # The end

    async def shut_down(self, flush: bool) -> None:
        """Bring what was sent to the other side if `flush`, then tell it that this one ends."""
        if flush:
            await self._flush()
        ending = Ending(Code.SHUTDOWN, "the other side ended")
        with trio.move_on_after(self._patience(CLOSE_TIMEOUT)):
            self.pump.close(ending)
            while not self.engine.finished:
                await self.pump.progress_lot.park()
        self.engine.close(ending)  # at once, if the storage hangs
        self._dispatch()
        self.pump.stop()
        while self.pump.tasks_running:
            await self.pump.progress_lot.park()
        for sender in self._subscribers:
            sender.close()
        self._state_lot.unpark_all()
        self.incoming_lot.unpark_all()

    async def _flush(self) -> None:
        """Wait until all that streams have sent has arrived, as long as it goes on."""
        least = self.engine.unsent + 1
        while not (self.engine.flushed or self.closed):
            with trio.move_on_after(self._patience(FLUSH_TIMEOUT)) as quiet:
                while self.engine.unsent >= least and not (self.engine.flushed or self.closed):
                    await self.pump.progress_lot.park()
            if quiet.cancelled_caught:
                return
            least = min(least, self.engine.unsent)

    def _patience(self, least: float) -> float:
        """Return how long to wait for the other side at the end: longer where all is slow.

        A large batch takes two reads where the PING that was measured takes one.
        """
        return max(least, min(MOST_PATIENCE, 3 * (self.engine.round_trip or 0.0)))


def mailboxes(path: str | os.PathLike[str], role: Role, config: SessionConfig) -> Storage:
    """Return the real files of the session in the directory `path`, as that side sees them."""
    own, peer = role.file_name, role.peer.file_name
    return PosixStorage(path, own, peer, config.access, any_owner=config.any_owner)


@asynccontextmanager
async def open_session(
    path: str | os.PathLike[str],
    *,
    role: Literal["listen", "dial"],
    config: SessionConfig | None = None,
    storage: Storage | None = None,
    progress: Progress | None = None,
    allowance: Allowance | None = None,
) -> AsyncIterator[Session]:
    """Open this side of the session in the directory `path`; the other side may come later.

    `path` must exist and be shared by both hosts; the files in it are made here. The two
    sides take different roles, and are alike otherwise. `storage` replaces the real files
    (see `muxfs.testing`). `progress` is told of the filling of a new mailbox. `allowance`
    is what several sessions share of operations, in place of `config.max_ops` for each.

    Yields when this side's file is ready; `Session.wait_established` waits for the other.
    On leaving, what streams have sent is brought over, and the other side is told.

    Raises OSError if the mailbox cannot be made (ENOSPC, EACCES, ...), AlreadyRunning if
    another process of the role is alive, UnusableKey if there is a key but no `cryptography`,
    and SessionError if the session ends for good, which also cancels the body. Exceptions of
    the body pass unchanged.
    """
    config = config or SessionConfig()
    if role not in {"listen", "dial"}:
        raise ValueError(f"role must be 'listen' or 'dial', not {role!r}")
    own = Role[role.upper()]
    if storage is None:
        storage = mailboxes(path, own, config)
    failure: BaseException | None = None
    try:
        shared = allowance or Allowance(config.max_ops)
        session = await _start(own, config, storage, progress, shared)
        async with trio.open_nursery() as nursery:
            session.pump.start(nursery)
            try:
                with session.body:
                    yield session
            except BaseException as error:  # noqa: BLE001  (raised again below, unwrapped)
                failure = error
            # no task is left when the nursery is: waiting there would be cancelled from outside,
            # and the Cancelled would take the place of the body's exception
            with trio.CancelScope(shield=True):
                await session.shut_down(flush=failure is None)
    finally:
        with trio.CancelScope(shield=True):
            await storage.aclose()
    if session.failure is not None:
        # what the body met of it, before it was cancelled, is only a consequence
        if failure is None or isinstance(failure, trio.Cancelled):
            raise session.failure
        if isinstance(failure, trio.BrokenResourceError | trio.ClosedResourceError):
            raise session.failure from failure
    if failure is not None:
        raise failure


async def _start(
    role: Role,
    config: SessionConfig,
    storage: Storage,
    progress: Progress | None,
    allowance: Allowance,
) -> Session:
    blocks = config.blocks()
    if not config.takeover:
        await occupancy.refuse_duplicate(storage, role, blocks)
    before = await storage.writer.prepare(wire.RING_OFFSET + config.capacity, progress)
    own_head = await storage.writer.read_back(0, wire.HEAD_LENGTH)
    life = link.previous_life(own_head, role, blocks)
    past = link.previous_life(before, role, blocks)
    if life is not None and life != past and not (life.ended or config.takeover):
        raise occupancy.already_running(life)  # born while the file was filled here
    engine_config = config.engine_config()
    if life is not None and config.takeover and not life.ended:
        replaced = wire.encode_text(life.birth.text(ItemType.PROCESS), 255)
        items = (*engine_config.items, (ItemType.REPLACES, replaced))
        engine_config = attrs.evolve(engine_config, items=items)
    peer_head = await storage.reader.read(0, wire.HEAD_LENGTH)
    least = 0 if config.key is None else least_generation()
    engine = Engine.start(
        role,
        engine_config,
        max(link.first_generation(own_head, peer_head, role, blocks), least),
        os.urandom,
        trio.current_time(),
        blocks=blocks,
    )
    session = Session(storage, engine, config, allowance)
    engine.report = session.report
    return session
