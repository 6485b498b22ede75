"""A session as a trio nursery: the engine of `muxfs.core` driven over a storage.

Three tasks, one each to write the own mailbox, to read the peer's, and to look
after the files themselves. They never raise: what fails is reported to the engine
and tried again, and what fails for good ends the session with one `SessionError`
out of `open_session`.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from getpass import getuser
from typing import Final, Literal

import attrs
import trio
from attrs.validators import ge

from muxfs import process
from muxfs._version import __version__
from muxfs.core import events, link, wire
from muxfs.core import stream as core
from muxfs.core.engine import Engine, EngineConfig, Write
from muxfs.core.multiplexer import OutOfStreams
from muxfs.core.polling import PollPolicy
from muxfs.core.stream import Ending
from muxfs.core.wire import Buffer, Code, Items, ItemType, Role
from muxfs.errors import AlreadyRunning, SessionError
from muxfs.info import (
    Change,
    Established,
    Lost,
    PeerInfo,
    Resumed,
    SessionState,
    SessionStats,
    Silent,
    StorageRecovered,
    StorageTrouble,
)
from muxfs.storage.access import Access
from muxfs.storage.base import FileCondition, Marker, Progress, Storage
from muxfs.storage.posix import PosixStorage
from muxfs.stream import MuxListener, MuxStream

FLUSH_TIMEOUT: Final = 5.0
"""Seconds without progress after which a session that ends leaves its streams' last bytes."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that it then takes at the most to tell the peer: the mount may hang."""

MOST_PATIENCE: Final = 30.0
"""Seconds to which both are raised where the measured round trip asks for it."""

OWN_FILE_BEATS: Final = 4
"""Heartbeats between looks at the own file; sooner when something is wrong with it."""

CHANGES_KEPT: Final = 256
READ_BACKOFF: Final = (0.05, 2.0)
"""First and longest pause in seconds after the peer's file could not be read."""

EAGER_SIZE: Final = 16 << 10
"""Bytes sent by the application up to which they are written without the writer task."""

EAGER_GAP: Final = 0.0001
"""Seconds after a write that was not left to the writer task until the next such one: what
comes meanwhile accumulates, and goes out as one batch."""

WRITES_IN_A_ROW: Final = 4
"""Writes into memory until other tasks get their turn."""

_NO_MARKER: Final = Marker(0, b"")

RATE_PERIOD: Final = 1.0
"""Seconds over which operations a second are counted, at least."""

DUPLICATE_LOOK: Final = 0.25
"""Seconds between looks at an own file whose last writer may be alive elsewhere."""


@attrs.frozen
class SessionConfig:
    """How one side of a session behaves. Bytes and seconds."""

    capacity: int = attrs.field(default=wire.DEFAULT_CAPACITY)
    """Size of the own ring; 256 KiB to 1 GiB, a multiple of 4096."""
    max_streams: int = attrs.field(default=wire.DEFAULT_MAX_STREAMS, validator=ge(0))
    """Live streams that the peer may have opened."""
    initial_credit: int = attrs.field(default=wire.DEFAULT_INITIAL_CREDIT, validator=ge(0))
    """What the peer may send on a new stream; grows with use, to 16 MiB at the most."""
    heartbeat: float = attrs.field(default=wire.DEFAULT_HEARTBEAT_MS / 1000, validator=ge(0.001))
    peer_timeout: float = attrs.field(
        default=wire.DEFAULT_PEER_TIMEOUT_MS / 1000, validator=ge(0.0)
    )
    """Silence after which the peer is given up and streams are reset; 0: never."""
    poll: PollPolicy = attrs.field(factory=PollPolicy)
    access: Access | None = None
    """How files are read and written; None: as the filesystem asks for."""
    takeover: bool = False
    """Start although another process of this role is alive; that one then ends."""
    label: str = ""
    """Shown to the peer: a job id, for instance."""

    @capacity.validator
    def _check_capacity(self, _attribute: object, value: int) -> None:
        if not wire.MIN_CAPACITY <= value <= wire.MAX_CAPACITY or value % wire.PAGE:
            raise ValueError("capacity must be 256 KiB to 1 GiB, and a multiple of 4096")

    def engine_config(self, speculate: bool) -> EngineConfig:
        """Return what the core takes of it."""
        heartbeat = self.heartbeat
        if self.peer_timeout:
            # one beat may be late, and one be lost
            heartbeat = min(heartbeat, self.peer_timeout / (wire.LEAST_BEATS + 1))
        return EngineConfig(
            capacity=self.capacity,
            max_streams=self.max_streams,
            initial_credit=self.initial_credit,
            heartbeat=max(1, round(1000 * heartbeat)),
            peer_timeout=round(self.peer_timeout * 1000),
            speculate=speculate,
            items=_items(self.label),
        )


def _items(label: str) -> Items:
    texts = (
        (ItemType.SOFTWARE, f"muxfs {__version__}"),
        (ItemType.HOST, socket.gethostname()),
        (ItemType.PROCESS, process.identity()),
        (ItemType.USER, _user()),
        (ItemType.STARTED, datetime.now(UTC).isoformat(timespec="seconds")),
        (ItemType.LABEL, label),
    )
    return tuple((kind, wire.encode_text(text, 255)) for kind, text in texts if text)


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError):  # a uid without a name, in a container
        return str(os.geteuid())


class _Doorbell:
    """Wakes one task, which looks at the state itself; rings before it waits are not lost."""

    def __init__(self) -> None:
        self.rung = False
        self._lot = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        self.rung = True
        self._lot.unpark()

    async def wait(self) -> None:
        if self.rung:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.park()
        self.rung = False


class Session:
    """One side of a tunnel; made by `open_session`.

    It outlives the peer: when that leaves or is restarted, streams end with a reset
    and the next session forms by itself.
    """

    def __init__(self, storage: Storage, engine: Engine, config: SessionConfig) -> None:
        self.storage = storage
        self.engine = engine
        self.config = config
        self.incoming_lot = trio.lowlevel.ParkingLot()
        self.failure: SessionError | None = None
        self.peer: PeerInfo | None = None
        self._streams: dict[core.Stream, MuxStream] = {}
        self._incoming: deque[MuxStream] = deque()
        self._state_lot = trio.lowlevel.ParkingLot()
        self._progress_lot = trio.lowlevel.ParkingLot()
        self._writer_bell = _Doorbell()
        self._reader_bell = _Doorbell()
        self._keeper_bell = _Doorbell()
        self._write_deadline = 0.0
        self._writer_waits = False
        self._left_to_task: Write | None = None
        self._eager_at = 0.0
        self._woken_for = 0.0
        self._notified = False
        self._napping: trio.CancelScope | None = None
        self._subscribers: list[trio.MemorySendChannel[Change]] = []
        self.body = trio.CancelScope()
        """Around what the user does; cancelled when the session fails."""
        self._task_scopes: list[trio.CancelScope] = []
        self._tasks_running = 0
        self._troubles: dict[str, int] = {}
        self._told_troubles: set[int] = set()
        self._reported = (trio.current_time(), 0)
        self._rate = 0.0

    # What the application uses

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self.engine.state

    @property
    def closed(self) -> bool:
        """Whether it is over for good."""
        return self.engine.state is SessionState.CLOSED

    async def wait_established(self) -> PeerInfo:
        """Wait for the other side; return who it is. Raises SessionError if it is over."""
        await trio.lowlevel.checkpoint()
        while self.peer is None or not self.engine.link.established:
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

    def start_stream(self, target: str = "", originator: str = "") -> MuxStream:
        """Open a stream without waiting: data may be sent before it is accepted.

        Raises BrokenResourceError if the session does not stand or no more streams are
        allowed now; ValueError as `open_stream` does.
        """
        try:
            stream = self.engine.open_stream(target, originator)
        except OutOfStreams:
            raise trio.BrokenResourceError("no stream can be opened now") from None
        self.kick_writer()
        return self._wrap(stream)

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
        self._subscribers.append(sender)
        return receiver

    def stats(self) -> SessionStats:
        """Return this side's counters."""
        engine = self.engine
        return SessionStats(
            state=engine.state.value,
            streams=engine.open_streams,
            opened=engine.opened_streams,
            bytes_written=engine.written_bytes,
            bytes_read=engine.read_bytes,
            in_flight=engine.in_flight,
            round_trip=engine.round_trip,
            operations=self.storage.operations.total,
            operations_per_second=round(self._rate, 2),
            torn=engine.torn_reads,
            stale=engine.stale_reads,
            rewritten=engine.rewritten,
        )

    # For streams and listeners

    def kick_writer(self, *, eagerly: bool = False) -> None:
        """Let the writer look for something to write; `eagerly`: at once, if it is idle."""
        if not eagerly:
            self._writer_bell.ring()
            return
        now = trio.current_time()
        idle = self._writer_waits and not self._writer_bell.rung
        if idle and now - self._eager_at > EAGER_GAP:
            self._write_eagerly(now)
        else:
            self._writer_bell.ring()

    def send(self, stream: core.Stream, data: Buffer) -> None:
        """Queue bytes of the application, which must not change any more."""
        self.engine.send(stream, data)
        self.kick_writer(eagerly=len(data) <= EAGER_SIZE)

    def take(self, stream: core.Stream, most: int) -> Buffer:
        """Take received bytes for the application."""
        data = self.engine.take(stream, most, trio.current_time())
        if stream.credit_due:
            self.kick_writer()
        return data

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
        self.kick_writer()
        self.incoming_lot.unpark_all()

    def _wrap(self, stream: core.Stream) -> MuxStream:
        wrapped = self._streams[stream] = MuxStream(self, stream)
        return wrapped

    def _check_open(self) -> None:
        if self.closed:
            ending = self.engine.ending or Ending(Code.SHUTDOWN, "the session is over")
            raise self.failure or SessionError(ending.code, ending.reason)

    # Tasks

    def start(self, nursery: trio.Nursery) -> None:
        """Start the session's tasks in the nursery; `shut_down` ends them."""
        for task in (self._write_loop, self._read_loop, self._keep_files):
            nursery.start_soon(self._run_task, task)
            self._tasks_running += 1

    async def _run_task(self, task: Callable[[], Awaitable[None]]) -> None:
        # shielded: if the user is cancelled from outside, the other side is still to be told
        scope = trio.CancelScope(shield=True)
        self._task_scopes.append(scope)
        try:
            with scope:
                await task()
        finally:
            self._tasks_running -= 1
            self._progress_lot.unpark_all()

    async def _write_loop(self) -> None:
        engine, writer = self.engine, self.storage.writer
        in_a_row = 0
        while not engine.finished:
            now = trio.current_time()
            engine.handle_timeout(now)
            write, self._left_to_task = self._left_to_task or engine.next_write(now), None
            self._dispatch()
            if write is None:
                in_a_row = 0
                self._write_deadline = engine.next_timeout()
                self._writer_waits = True
                with trio.move_on_at(self._write_deadline):
                    await self._writer_bell.wait()
                self._writer_waits = False
                continue
            self._wake_reader()
            in_a_row += 1
            # a task switch costs as much as the copy: not one for each write
            if in_a_row % WRITES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
            if self._write_now(write):
                continue
            try:
                await writer.write(write.offset, write.buffers)
            except OSError as error:
                self._write_failed(error)
            else:
                self._write_succeeded()
        self._dispatch()

    def _write_eagerly(self, now: float) -> None:
        """Write without the writer task, which saves its wake-up: for a message now and then."""
        self._eager_at = now
        write = self.engine.next_write(now)
        if write is not None and self._write_now(write):
            self._wake_reader()
            self._dispatch()
        else:
            self._left_to_task = write
            self._writer_bell.ring()

    def _write_now(self, write: Write) -> bool:
        """Write into memory; whether that was possible, though it may have failed."""
        try:
            if not self.storage.writer.write_now(write.offset, write.buffers):
                return False
        except OSError as error:
            self._write_failed(error)
        else:
            self._write_succeeded()
        return True

    def _write_succeeded(self) -> None:
        self.engine.write_done()
        self._note_recovery("writing")
        self._progress_lot.unpark_all()

    def _write_failed(self, error: OSError) -> None:
        self.engine.write_failed(trio.current_time())
        self._note_trouble("writing", error)
        self._keeper_bell.ring()
        self._progress_lot.unpark_all()

    async def _read_loop(self) -> None:
        backoff = READ_BACKOFF[0]
        while True:
            try:
                more = await self._poll()
            except OSError as error:
                self._note_trouble("reading", error)
                await trio.sleep(backoff)
                backoff = min(2 * backoff, READ_BACKOFF[1])
                continue
            self._note_recovery("reading")
            backoff = READ_BACKOFF[0]
            if more:
                await trio.lowlevel.checkpoint()
            else:
                await self._pause()

    async def _pause(self) -> None:
        """Wait until it is time to look again: woken by the kernel, or as the policy says."""
        engine, reader, policy = self.engine, self.storage.reader, self.config.poll
        marker = Marker(*engine.marker) if engine.marker is not None else _NO_MARKER
        pause = policy.pause(trio.current_time() - engine.active_at, reader.immediate)
        if pause.seconds and reader.notifies:
            self._notified = await reader.watch(marker, 0, policy.maximum)
        elif pause.nap and engine.marker is not None:
            with trio.CancelScope() as self._napping:
                await reader.watch(marker, pause.nap, pause.seconds)
            self._napping = None
        elif pause.seconds:
            with trio.move_on_after(pause.seconds):
                await self._reader_bell.wait()
        else:
            await trio.lowlevel.checkpoint()

    async def _poll(self) -> bool:
        """Read once what is due; whether something new was there."""
        engine = self.engine
        plan = engine.next_read(trio.current_time())
        progress = False
        ring = plan.ring
        while ring is not None:
            data = await self._read(*ring)
            progress = engine.receive_ring(data, trio.current_time()) or progress
            # the probe showed a batch that is longer: the rest of it at once
            ring = engine.next_read(trio.current_time()).ring if engine.read_again else None
        # the kernel told of a change that is not in the ring: then it is in the head
        if plan.head or (self._notified and not progress):
            head = await self._read(0, wire.HEAD_LENGTH)
            engine.receive_head(head, trio.current_time())
            progress = progress or (plan.ring is None and engine.marker is not None)
        self._notified = False
        self._after_reading()
        return progress

    async def _read(self, offset: int, length: int) -> bytes:
        data = self.storage.reader.read_now(offset, length)
        return await self.storage.reader.read(offset, length) if data is None else data

    def _after_reading(self) -> None:
        self._dispatch()
        engine = self.engine
        if engine.wants_write(trio.current_time()) or engine.next_timeout() < self._write_deadline:
            self.kick_writer()
        self._progress_lot.unpark_all()

    def _wake_reader(self) -> None:
        """Leave long pauses where streams were written: an answer is likely."""
        if self.engine.active_at == self._woken_for:
            return
        self._woken_for = self.engine.active_at
        self._reader_bell.ring()
        if self._napping is not None:
            self._napping.cancel()

    async def _keep_files(self) -> None:
        """Look after the names: heal the own file, follow the peer's (section 12)."""
        rewritten = beats = 0
        while True:
            with trio.move_on_after(self.config.heartbeat):
                await self._keeper_bell.wait()
            beats += 1
            standstill = self.engine.rewritten != rewritten
            rewritten = self.engine.rewritten
            try:
                if beats % OWN_FILE_BEATS == 0 or standstill or self._troubles:
                    await self._check_own_file()
                peer = self.engine.link
                if not peer.established or peer.silence > self.config.heartbeat:
                    await self.storage.reader.refresh()
            except OSError as error:
                self._note_trouble("looking after the files", error)
            else:
                self._note_recovery("looking after the files")

    async def _check_own_file(self) -> None:
        writer = self.storage.writer
        if await writer.inspect() is not FileCondition.INTACT:
            await writer.recreate()
            self.engine.restore()
        else:
            head = await writer.read_back(0, wire.PAGE)
            self.engine.receive_own(head, trio.current_time())
        self._after_reading()

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
                self._publish(Lost(ending.code, ending.reason))
            case events.Silent(seconds):
                self._publish(Silent(seconds))
            case events.Resumed():
                self._publish(Resumed())
            case events.Failed(ending):
                self.failure = SessionError(ending.code, ending.reason)
                self.body.cancel()
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

    def _note_trouble(self, where: str, error: OSError) -> None:
        """Tell each kind of error once, until all works again."""
        number = error.errno or 0
        if number not in self._told_troubles:
            self._publish(StorageTrouble(error))
        self._told_troubles.add(number)
        self._troubles[where] = number

    def _note_recovery(self, where: str) -> None:
        if self._troubles.pop(where, None) is not None and not self._troubles:
            self._told_troubles.clear()
            self._publish(StorageRecovered())

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
            self.engine.close(ending)
            self.kick_writer()
            while not self.engine.finished:
                await self._progress_lot.park()
        self.engine.close(ending)  # at once, if the storage hangs
        self._dispatch()
        for scope in self._task_scopes:
            scope.cancel()
        while self._tasks_running:
            await self._progress_lot.park()
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
                    await self._progress_lot.park()
            if quiet.cancelled_caught:
                return
            least = min(least, self.engine.unsent)

    def _patience(self, least: float) -> float:
        """Return how long to wait for the other side at the end: longer where all is slow."""
        return max(least, min(MOST_PATIENCE, 2 * (self.engine.round_trip or 0.0)))


@asynccontextmanager
async def open_session(
    path: str | os.PathLike[str],
    *,
    role: Literal["listen", "dial"],
    config: SessionConfig | None = None,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> AsyncIterator[Session]:
    """Open this side of the session in the directory `path`; the other side may come later.

    `path` must exist and be shared by both hosts; the files in it are made here. The two
    sides take different roles, and are alike otherwise. `storage` replaces the real files
    (see `muxfs.testing`). `progress` is told of the filling of a new mailbox.

    Yields when this side's file is ready; `Session.wait_established` waits for the other.
    On leaving, what streams have sent is brought over, and the other side is told.

    Raises OSError if the mailbox cannot be made (ENOSPC, EACCES, ...), AlreadyRunning if
    another process of the role is alive, and SessionError if the session ends for good,
    which also cancels the body. Exceptions of the body pass unchanged.
    """
    config = config or SessionConfig()
    if role not in {"listen", "dial"}:
        raise ValueError(f"role must be 'listen' or 'dial', not {role!r}")
    own = Role[role.upper()]
    if storage is None:
        storage = PosixStorage(path, own.file_name, own.peer.file_name, config.access)
    failure: BaseException | None = None
    try:
        session = await _start(own, config, storage, progress)
        async with trio.open_nursery() as nursery:
            session.start(nursery)
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
    if session.failure is not None and (failure is None or isinstance(failure, trio.Cancelled)):
        raise session.failure
    if failure is not None:
        raise failure


async def _start(
    role: Role, config: SessionConfig, storage: Storage, progress: Progress | None
) -> Session:
    own_head = await storage.writer.prepare(wire.RING_OFFSET + config.capacity, progress)
    if not config.takeover:
        await _refuse_duplicate(storage, own_head)
    peer_head = await storage.reader.read(0, wire.HEAD_LENGTH)
    engine = Engine.start(
        role,
        config.engine_config(speculate=not storage.reader.immediate),
        link.first_generation(own_head, peer_head),
        os.urandom,
        trio.current_time(),
    )
    session = Session(storage, engine, config)
    engine.report = session.report
    return session


async def _refuse_duplicate(storage: Storage, own_head: bytes) -> None:
    """Raise AlreadyRunning if the own file's last writer is alive (section 7)."""
    life = link.previous_life(own_head)
    if life is None or life.ended:
        return
    birth = life.birth
    writer = birth.text(ItemType.PROCESS)
    # this process lives, but the session of it that wrote the file may have ended without a word
    alive = None if writer == process.identity() else process.is_alive(writer)
    if alive is None:
        alive = await _beats(storage, life)
    if alive:
        info = PeerInfo.of(birth)
        raise AlreadyRunning(
            f"another muxfs {birth.role.name.lower()} is running on this tunnel: host "
            f"{info.host or '?'}, pid {info.pid or '?'}; end it, or pass --takeover"
        )


async def _beats(storage: Storage, life: link.PreviousLife) -> bool:
    """Watch a file of another host for longer than its heartbeat: a moving beat is life."""
    with trio.move_on_after(1.5 * life.birth.heartbeat / 1000 + 1):
        while True:
            await trio.sleep(DUPLICATE_LOOK)
            now = link.previous_life(await storage.writer.read_back(0, wire.HEAD_LENGTH))
            if now is not None and now.signs != life.signs:
                return not now.ended
    return False
