"""Two whole sides on a bad filesystem, one step at a time: the world of the session tests.

A `World` holds two mailboxes in memory, the processes that use them, and the
applications on their streams. It has no clock and no chance of its own: every step is
a method with explicit arguments (and a seed for the details), so that a hypothesis
state machine can draw and shrink them, and `explore` can run the same steps fast.

Rule 1: what `muxfs.pump` does around an engine is done here in the same order.
Rule 2: every broken promise of the protocol raises `Broken`, at the step that shows it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias

import attrs

from muxfs.core import link, wire
from muxfs.core.conversation import Conversation
from muxfs.core.engine import Engine, EngineConfig, Read, State
from muxfs.core.events import Established, Event, Failed
from muxfs.core.flight import MOST_WRITES, Write
from muxfs.core.inbound import MOST_READS
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks, clear_birth
from muxfs.core.stream import SEND_BUFFER, Ending, ReceiveState, SendState, Stream
from muxfs.core.wire import (
    HEAD_LENGTH,
    MAX_CONTROL_QUEUE,
    PAGE,
    RING_OFFSET,
    Code,
    Incarnation,
    Role,
)
from muxfs.storage.memory_file import MemoryFile, random_tear, random_versions

VERSIONS: Final = 6
"""How many versions of each page a reader may be shown."""

COPIES: Final = 8
POLL: Final = 0.05
CHECK_OWN_FILE: Final = 10.0
"""Seconds between looks at the own file while the world runs by itself."""

_NOISE: Final = random.Random(2).randbytes((1 << 20) - 3)


class Broken(AssertionError):
    """A promise of the protocol was broken."""


def check(promise: bool, *broken: object) -> None:
    """Raise Broken unless the promise holds."""
    if not promise:
        raise Broken(" ".join(map(str, broken)))


Key: TypeAlias = tuple[Incarnation, Incarnation, int]
"""Names a stream for ever: incarnations of its opener and of its acceptor, and its id."""


@attrs.define(eq=False)
class End:
    """The application at one end of a stream: what it sent, and what it got."""

    process: Process
    stream: Stream
    key: Key
    sent: int = 0
    finished: bool = False
    aborted: bool = False
    stopped: bool = False
    answered: bool = False
    received: int = 0
    clean: bool = False
    broken: bool = False

    def __str__(self) -> str:
        return f"stream {self.stream.stream_id} of {self.process}"

    @property
    def may_send(self) -> bool:
        """What `MuxStream` checks before it sends."""
        send = self.stream.send
        return (
            (self.stream.opened_here or self.answered)
            and not (self.finished or self.aborted)
            and send.ending is None
            and send.state is SendState.OPEN
            and send.room > 0
        )


def pattern(key: Key, sender: Role, start: int, length: int) -> bytes:
    """Return what the sender of that stream has at these offsets: no two streams agree."""
    name = key[0].encode() + key[1].encode() + key[2].to_bytes(4) + bytes([sender])
    at = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) + start
    at %= len(_NOISE)
    piece = _NOISE[at : at + length]
    while len(piece) < length:
        piece += _NOISE[: length - len(piece)]
    return piece


@attrs.define(eq=False)
class Process:
    """One life of one side, from its start to its end or its kill."""

    world: World
    role: Role
    number: int
    engine: Engine
    own: MemoryFile
    peer: MemoryFile | None
    ends: dict[Stream, End] = attrs.field(factory=dict)
    writes: list[Write] = attrs.field(factory=list)
    """Those that are under way."""

    readings: list[tuple[Read, bytes]] = attrs.field(factory=list)
    """Reads under way, and what the filesystem showed."""

    failed: Ending | None = None
    asleep: bool = False
    """Whether the writer waits: for its time, for a reason to write, or for the application."""
    trouble: bool = False
    next_look: float = 0.0
    beats: dict[Incarnation, int] = attrs.field(factory=dict)
    epochs: set[int] = attrs.field(factory=set)
    events: list[Event] = attrs.field(factory=list)
    highest: int = 0
    """The highest generation it wrote."""

    birth: bytes = b""
    """Its last birth block."""

    _watched: tuple[int, int, int] = (0, 0, 0)  # epoch, acknowledged, read position

    def __str__(self) -> str:
        return f"{self.role.name.lower()} {self.number}"

    @property
    def over(self) -> bool:
        """Whether it has nothing left to do: its shell would end."""
        return self.engine.finished

    # Writing: several writes at a time, and they end in any order

    @property
    def conversation(self) -> Conversation | None:
        """The session of its engine with the peer."""
        return self.engine._conversation

    def begin_write(self) -> bool:
        """Take the next write from the engine; whether there was one."""
        if self.over:
            return False
        engine, now = self.engine, self.world.now
        woken = not self.asleep or engine.next_timeout() <= now
        engine.handle_timeout(now)
        woken = woken or engine.wants_write(now)
        write = engine.next_write(now)
        self.asleep = write is None
        self.look()
        check(woken or write is None, self, "sleeps, but has something to write")
        if write is None:
            check(engine.finished or engine.next_timeout() > now, self, "spins without end")
            return False
        self._check_overlap(write)
        self.world.log(self, write)
        self.writes.append(write)
        return True

    def _check_overlap(self, write: Write) -> None:
        heads = sum(other.in_head for other in self.writes)
        check(not (write.in_head and heads), self, "writes two parts of its head at a time")
        stop = write.offset + write.length
        for other in self.writes:
            clear = stop <= other.offset or other.offset + other.length <= write.offset
            check(clear, self, "writes over a write that is under way")

    def show_part(self, rng: random.Random) -> None:
        """Let parts of the writes under way be seen already."""
        for write in self.writes:
            self._tear(write, rng)

    def end_write(self, number: int = 0) -> None:
        """Bring a write under way to its good end."""
        if self.writes:
            write = self.writes.pop(number % len(self.writes))
            self.own.write(write.offset, write.buffers)
            self.trouble = self.asleep = False
            self.engine.write_done(write, self.world.now)
            self.look()

    def fail_write(self, rng: random.Random, lost: int) -> None:
        """Let a write under way fail, and take earlier ones with it."""
        if self.writes:
            write = self.writes.pop(rng.randrange(len(self.writes)))
            self._tear(write, rng)
            self.own.lose(lost)
            self.trouble, self.asleep = True, False
            self.engine.write_failed(write, self.world.now)
            self.look()

    def _tear(self, write: Write, rng: random.Random) -> None:
        self.own.write_torn(write.offset, write.buffers, random_tear(rng)(write.length))

    def write_all(self, limit: int = 1 << 20) -> None:
        """Write what is due, without faults; up to `limit` writes."""
        while self.writes:
            self.end_write()
        for _ in range(limit):
            if not self.begin_write():
                return
            self.end_write()

    # Reading

    def begin_read(self, most: int = 100) -> None:
        """Ask for what the engine wants to read, and see what the filesystem shows of it."""
        if self.over:
            return
        if not self.readings:
            self.engine.begin_poll(self.world.now)
        self._go_on_reading(most)

    def _go_on_reading(self, most: int = 100) -> None:
        for _ in range(most):
            read = self.engine.next_read(self.world.now)
            if read is None:
                return
            self.readings.append((read, self._read(read.offset, read.length)))

    def end_read(self, number: int = 0) -> bool:
        """Give what was read to the engine; whether to read again at once."""
        if not self.readings:
            return False
        read, data = self.readings.pop(number % len(self.readings))
        if self.over:
            return False
        progress = self.engine.receive(read, data, self.world.now)
        self._check_memory()
        self.look()
        return progress

    def read_all(self) -> None:
        """Read until nothing new is shown."""
        for _ in range(10_000):
            self.begin_read()
            progress = False
            while self.readings:
                progress = self.end_read() or progress
                self._go_on_reading()
            if not progress:
                return
        raise Broken(f"{self} reads without end")

    def _read(self, offset: int, length: int) -> bytes:
        if self.peer is None:
            self.peer = self.world.files[self.role.peer]
        return self.peer.read(offset, length, self.world.choose()) if self.peer else b""

    # The files themselves

    def look_after_files(self) -> None:
        """Do what the session does every few heartbeats."""
        if self.over:
            return
        here = self.world.files[self.role]
        if here is not self.own or self.own.size < self.world.size(self.role):
            if here is None:
                here = self.world.files[self.role] = MemoryFile(VERSIONS)
            self.own = here
            self.own.truncate(max(self.own.size, self.world.size(self.role)))
            self.engine.restore()
        else:
            self.engine.receive_own(self.own.read(0, PAGE), self.world.now)
        self.look()
        self.peer = self.world.files[self.role.peer]

    # The application

    def open(self) -> End | None:
        """Open a stream, if that is allowed now."""
        engine = self.engine
        if self.over or not engine.can_open or engine.link.peer is None:
            return None
        mine, its = engine.link.own.incarnation, engine.link.peer.incarnation
        stream = engine.open_stream(f"{mine.nonce.hex()}:{self.world.opened}")
        self.world.opened += 1
        return self._adopt(stream, (mine, its, stream.stream_id))

    def _adopt(self, stream: Stream, key: Key) -> End:
        end = self.ends[stream] = End(self, stream, key)
        check((key, self.role) not in self.world.ends, end, "was there before")
        self.world.ends[key, self.role] = end
        return end

    def _incoming(self, stream: Stream) -> None:
        peer = self.engine.link.peer
        if peer is None:
            raise Broken(f"{self} got a stream of nobody")
        key = (peer.incarnation, self.engine.link.own.incarnation, stream.stream_id)
        self.world.judge_open(self, key, stream)
        self._adopt(stream, key)

    def send(self, end: End, length: int) -> int:
        """Send up to `length` bytes, as far as there is room; return how many it were."""
        if self.over or not end.may_send or not length:
            return 0
        length = min(length, end.stream.send.room)
        data = pattern(end.key, self.role, end.sent, length)
        self.engine.send(end.stream, data)
        end.sent += length
        return length

    def flood(self) -> None:
        """Send until nothing more goes: the ring is full, or all credit is used up."""
        while sum(self.send(end, SEND_BUFFER) for end in list(self.ends.values())):
            self.write_all()

    def drip(self, end: End, pieces: int) -> None:
        """Send many tiny pieces, each in a batch of its own."""
        for number in range(pieces):
            self.send(end, 1 + number % 20)
            self.write_all()

    def take(self, end: End, most: int) -> int:
        """Take up to `most` bytes and check them, then look whether that is the end."""
        if self.over or end.stopped:
            return 0
        receive = end.stream.receive
        taken = 0
        while receive.buffered and taken < most:
            piece = self.engine.take(end.stream, most - taken, self.world.now)
            self.world.judge(end, bytes(piece))
            taken += len(piece)
        if not receive.buffered and receive.state is not ReceiveState.OPEN:
            self.world.judge_end(end)
        return taken

    def accept(self, end: End) -> None:
        """Accept the peer's stream."""
        if not (self.over or end.answered or end.stream.opened_here or end.aborted):
            end.answered = True
            self.engine.accept(end.stream, "there")

    def refuse(self, end: End) -> None:
        """Refuse the peer's stream."""
        if not (self.over or end.answered or end.stream.opened_here or end.aborted):
            end.answered = end.aborted = end.stopped = True
            self.engine.refuse(end.stream, Ending(Code.REFUSED, "not today"))

    def finish(self, end: End) -> None:
        """End the sending direction."""
        if not (self.over or end.finished) and (end.may_send or end.stream.send.room <= 0):
            end.finished = True
            self.engine.finish(end.stream)

    def abort(self, end: End) -> None:
        """Give the stream up."""
        if not end.stream.opened_here and not end.answered:
            self.refuse(end)
        elif not (self.over or end.aborted):
            end.aborted = end.stopped = True
            self.engine.abort(end.stream, Ending(Code.CANCELLED, "given up"))
            self.engine.release(end.stream)

    def close_stream(self, end: End) -> None:
        """Send what there is, and read no more: what `aclose` of a stream does."""
        if self.over or end.stopped or end.aborted:
            return
        if not end.stream.opened_here and not end.answered:
            self.refuse(end)
            return
        end.finished = end.stopped = True
        self.engine.finish(end.stream)
        self.engine.stop(end.stream, Ending(Code.CANCELLED))
        self.engine.release(end.stream)

    def close(self) -> None:
        """Close the session in good order."""
        self.engine.close(Ending(Code.SHUTDOWN, "the end"))
        self.asleep = False

    # Looking

    def look(self) -> None:
        """Take what happened out of the engine, and check all promises."""
        for event in self.engine.take_events():
            self.events.append(event)
            if isinstance(event, Failed):
                self.failed = event.ending
                self.world.judge_failure(self, event.ending)
            elif isinstance(event, Established):
                epoch = self.engine.link.epoch
                check(epoch not in self.epochs, self, "entered an epoch twice")
                self.world.established += 1
                self.epochs.add(epoch)
        changes = self.engine.take_changes()
        for stream in changes.incoming:
            self._incoming(stream)
        self._check_positions()

    def _check_positions(self) -> None:
        if self.conversation is None:
            return
        out, inbound = self.conversation.out, self.conversation.inbound
        check(0 <= out.in_flight <= out.capacity, self, "more in flight than the ring holds")
        epoch, acknowledged, position = self._watched
        if epoch == out.epoch:
            check(out.acknowledged >= acknowledged, self, "an ack went back")
            check(inbound.position >= position, self, "the read position went back")
        self._watched = (out.epoch, out.acknowledged, inbound.position)

    def _check_memory(self) -> None:
        if self.conversation is None:
            return
        streams = self.conversation.streams
        check(len(streams._pings) <= wire.MAX_PENDING_PINGS, self, "owes too many PONGs")
        queued = len(streams._control) - 3 * len(streams.streams)
        check(queued <= MAX_CONTROL_QUEUE, self, "a flood of control frames")
        live = sum(not stream.opened_here for stream in streams.streams.values())
        most = self.engine.config.max_streams + wire.MAX_PENDING_OPENS
        check(live <= most, self, "holds", live, "streams of the peer")
        for stream in streams.streams.values():
            receive = stream.receive
            window = receive.window.limit - receive.window.consumed
            check(receive.buffered <= window, self, "more buffered than was allowed")
            check(_held(stream) <= 4 * window + PAGE, self, "more memory than was allowed")


def _held(stream: Stream) -> int:
    """Bytes of memory that a stream's received data keeps alive, about."""
    objects: dict[int, int] = {}
    for piece in stream.receive._queue:
        whole = piece.obj if isinstance(piece, memoryview) else piece
        objects[id(whole)] = len(whole) + 48
    return sum(objects.values())


@attrs.define(eq=False)
class World:
    """Two mailboxes, and the processes that ever used them."""

    configs: dict[Role, EngineConfig]
    rng: random.Random
    make_blocks: Callable[[], Blocks] = lambda: CHECKSUM_BLOCKS
    allowed_failures: frozenset[Code] = frozenset({Code.STORAGE})
    now: float = 1000.0
    stale: float = 0.0
    opened: int = 0
    files: dict[Role, MemoryFile | None] = attrs.field(factory=lambda: dict.fromkeys(Role))
    processes: list[Process] = attrs.field(factory=list)
    lives: list[Process] = attrs.field(factory=list)
    ends: dict[tuple[Key, Role], End] = attrs.field(factory=dict)
    copies: list[bytes] = attrs.field(factory=list)
    """What a stranger who can read the directory has of both files, from earlier moments."""
    delivered: int = 0
    established: int = 0
    ghosts: list[tuple[MemoryFile, Write]] = attrs.field(factory=list)
    """Writes that dead processes have left under way: the file server may still have them."""

    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    _written: dict[tuple[Role, int, int], tuple[bytes, int]] = attrs.field(factory=dict)
    _last_ack: dict[tuple[Role, int], tuple[int, int]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, configs: dict[Role, EngineConfig], seed: int) -> World:
        """Make a world whose details (nonces, old pages) follow from the seed."""
        return cls(configs, random.Random(seed))

    # The filesystem

    def size(self, role: Role) -> int:
        """Size of a whole mailbox."""
        return RING_OFFSET + self.configs[role].capacity

    def choose(self) -> Callable[[int, int], int] | None:
        """Return which version of each page to show now."""
        return random_versions(self.rng, self.stale) if self.stale else None

    def damage(
        self,
        role: Role,
        how: Literal["delete", "empty", "halve", "garble", "garble head", "zero"],
        rng: random.Random,
    ) -> None:
        """Let a stranger destroy a mailbox."""
        file = self.files[role]
        if file is None:
            return
        if how == "delete":
            self.files[role] = None
        elif how == "empty":
            file.truncate(0)
        elif how == "halve":
            file.truncate(file.size // 2)
        else:
            size = max(1, file.size)
            start = rng.randrange(size)
            length = rng.randrange(1, size + 1)
            if how == "garble head":
                start, length = 0, HEAD_LENGTH
            data = bytes(length) if how == "zero" else rng.randbytes(length)
            file.write(start, [data[: file.size - start]])

    def copy(self, role: Role, rng: random.Random) -> None:
        """Let a stranger take a copy of a mailbox."""
        file = self.files[role]
        if file is not None:
            self.copies.append(file.read(0, file.size))
            if len(self.copies) > COPIES:
                del self.copies[rng.randrange(COPIES)]

    def put_back(self, role: Role, rng: random.Random) -> None:
        """Let a stranger write a part of a copy, whose ever it was, into a mailbox."""
        file = self.files[role]
        if file is None or not self.copies:
            return
        copy = rng.choice(self.copies)
        start = rng.choice((0, 0, PAGE, 2 * PAGE, RING_OFFSET))
        length = rng.choice((PAGE, HEAD_LENGTH, len(copy)))
        file.write(start, [copy[start : start + length][: max(0, file.size - start)]])

    def log(self, process: Process, write: Write) -> None:
        """Check what is written against everything that ever was."""
        data = b"".join(write.buffers)
        capacity = self.configs[process.role].capacity
        check(
            write.offset >= 0 and write.offset + len(data) <= RING_OFFSET + capacity,
            process,
            "writes outside of its file",
        )
        if write.offset < RING_OFFSET:
            self._log_head(process, write.offset, data)
            return
        epoch = int.from_bytes(data[8:16])
        position = int.from_bytes(data[16:24])
        ack = int.from_bytes(data[24:32])
        place = (process.role, epoch, position)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        known = self._written.setdefault(place, (digest, len(data)))
        check(known[0] == digest, process, "wrote two batches at position", position)
        check(write.offset == RING_OFFSET + position % capacity, process, "a batch astray")
        check(len(data) % wire.ALIGNMENT == 0, process, "a batch without its padding")
        last = self._last_ack.get((process.role, epoch), (-1, -1))
        if position > last[0]:
            check(ack >= last[1], process, "took an ack back")
            self._last_ack[process.role, epoch] = (position, ack)

    def _log_head(self, process: Process, offset: int, data: bytes) -> None:
        check(len(data) <= PAGE, process, "writes a head block longer than its page")
        status = wire.clear_status(data)
        if status is not None:
            last = process.beats.get(status.incarnation, 0)
            check(status.beat == last + 1, process, "beat", status.beat, "after", last)
            check(offset == wire.status_offset(status.beat), process, "a status astray")
            process.beats[status.incarnation] = status.beat
        else:
            birth = clear_birth(data)
            check(offset == 0 and birth is not None, process, "writes rubbish")
            process.highest = birth.incarnation.generation if birth else 0
            process.birth = data

    # Lives

    def alive(self, role: Role | None = None) -> list[Process]:
        """Return the processes that run, of one role or all."""
        return [p for p in self.processes if role is None or p.role is role]

    def start(self, role: Role) -> Process:
        """Start a side as `muxfs.session._start` does, on views as old as the world shows them."""
        own = self.files[role]
        if own is None:
            own = self.files[role] = MemoryFile(VERSIONS)
        own_head = own.read(0, HEAD_LENGTH, self.choose())
        own.truncate(max(own.size, self.size(role)))
        peer = self.files[role.peer]
        peer_head = peer.read(0, HEAD_LENGTH, self.choose()) if peer else b""
        blocks = self.make_blocks()
        engine = Engine.start(
            role,
            self.configs[role],
            link.first_generation(own_head, peer_head, role, blocks),
            self.rng.randbytes,
            self.now,
            blocks=blocks,
        )
        engine.speculate = self.rng.random() < 0.5
        process = Process(self, role, next(self._numbers), engine, own, peer)
        process.next_look = self.now + CHECK_OWN_FILE
        self.processes.append(process)
        self.lives.append(process)
        return process

    def kill(self, process: Process, rng: random.Random | None = None) -> None:
        """Kill a process; of the writes under way some parts reach the file, now or later."""
        if rng is not None:
            process.show_part(rng)
            self.ghosts += [(process.own, write) for write in process.writes]
        self.processes.remove(process)

    def land(self, rng: random.Random) -> None:
        """Let a write of a dead process reach its file, over whatever stands there now."""
        if self.ghosts:
            file, write = self.ghosts.pop(rng.randrange(len(self.ghosts)))
            file.write_torn(write.offset, write.buffers, random_tear(rng)(write.length))

    # Judging

    def judge_open(self, process: Process, key: Key, stream: Stream) -> None:
        """Check that somebody opened the stream."""
        opener = self.ends.get((key, process.role.peer))
        if opener is None:
            raise Broken(f"{process} got a stream {stream.stream_id} that nobody opened")
        check(opener.stream.target == stream.target, process, "got a stream with another's target")

    def judge(self, end: End, piece: bytes) -> None:
        """Check received bytes against what was sent on that very stream."""
        sender = self.ends.get((end.key, end.process.role.peer))
        check(sender is not None, end, "got bytes of a stream that nobody has")
        if sender is None:
            return
        check(end.received + len(piece) <= sender.sent, end, "got more than was sent")
        right = pattern(end.key, end.process.role.peer, end.received, len(piece))
        check(piece == right, end, "got wrong bytes at", end.received)
        check(not (end.clean or end.broken), end, "got bytes after its end")
        end.received += len(piece)
        self.delivered += len(piece)

    def judge_end(self, end: End) -> None:
        """Check that a clean end comes after all bytes, and only if the sender finished."""
        if end.stream.receive.state is not ReceiveState.FINISHED:
            end.broken = True
            return
        sender = self.ends.get((end.key, end.process.role.peer))
        check(sender is not None, end, "ended, and nobody has the stream")
        if sender is not None:
            check(sender.finished, end, "ended cleanly, but its sender did not")
            check(end.received == sender.sent, end, "ended cleanly before its last byte")
        end.clean = True

    def judge_failure(self, process: Process, ending: Ending) -> None:
        """Check that a side failed only for a reason that this world gives it."""
        check(bool(ending.reason), process, "failed without a reason")
        if ending.code is Code.SUPERSEDED:
            # also by a dead one: a start on views that hid it may meet its ghost
            own = process.engine.link.own.incarnation.generation
            others = [p.highest for p in self.lives if p.role is process.role and p is not process]
            check(max(others, default=0) >= own, process, "was superseded by nobody")
        else:
            allowed = ending.code in self.allowed_failures
            check(allowed, process, "failed:", ending.code.name, "-", ending.reason)

    # Time

    def reap(self) -> None:
        """Let processes end that have nothing left to do."""
        for process in [p for p in self.processes if p.over]:
            self.ghosts += [(process.own, write) for write in process.writes]
            self.processes.remove(process)

    def turn(self, process: Process) -> None:
        """Let a process do all that it would do now, without faults of writing."""
        if self.now >= process.next_look or process.trouble:
            process.next_look = self.now + CHECK_OWN_FILE
            process.look_after_files()
        process.write_all()
        process.read_all()
        process.write_all()

    def run(self, seconds: float, apps: Callable[[Process], None] | None = None) -> None:
        """Let all processes run for a while."""
        until = self.now + seconds
        while self.now < until:
            for process in list(self.processes):
                self.turn(process)
                if apps is not None:
                    apps(process)
                    process.write_all()
            self.reap()
            self.now += POLL

    # The end of all faults

    def settle(self) -> None:
        """End all faults, and check that everything arrives within a bounded time."""
        self.stale = 0.0
        while self.ghosts:
            self.land(self.rng)
        for role in Role:
            if not self.alive(role):
                self.start(role)
        until = self.now + self._patience()
        while self.now < until:
            for process in list(self.processes):
                self.turn(process)
                serve(process)
                process.write_all()
            self.reap()
            for role in Role:
                if not self.alive(role):
                    self.start(role)
            if self.converged:
                break
            self.now += self._stride()
        else:
            raise Broken(f"no convergence: {self.explain()}")
        self._check_usable()

    def _patience(self) -> float:
        slowest = max(max(c.heartbeat, c.peer_timeout) for c in self.configs.values())
        return 120 + 3 * slowest / 1000

    def _stride(self) -> float:
        """Time until something can happen: polls are skipped while nobody is owed anything."""
        due = min((p.engine.next_timeout() for p in self.processes), default=math.inf)
        return max(POLL, min(0.5, due - self.now))

    @property
    def converged(self) -> bool:
        """Whether one process of each role is established with the other, and all is delivered."""
        return not self.explain()

    def explain(self) -> str:
        """Return what is missing to convergence."""
        if sorted(p.role for p in self.processes) != sorted(Role):
            return f"running: {', '.join(map(str, self.processes))}"
        one, two = self.processes
        missing = [self._unmet(one, two), self._unmet(two, one)]
        ends = (*one.ends.values(), *two.ends.values())
        missing += [f"{end}: {what}" for end in ends if (what := self._missing(end))]
        return next(filter(None, missing), "")

    def _unmet(self, process: Process, other: Process) -> str:
        """Return what a process still lacks to a session with the other."""
        engine = process.engine
        peer = engine.link.peer
        if engine.state is not State.ESTABLISHED:
            return f"{process} is {engine.state.value}"
        if peer is None or peer.incarnation != other.engine.link.own.incarnation:
            return f"{process} talks to somebody else"
        if process.own.read(0, len(process.birth)) != process.birth:
            return f"{process} has not seen yet that its file is not its own"
        return "" if engine.flushed else f"{process} has something left to send"

    def _missing(self, end: End) -> str:
        """Return what an end still waits for that it has a right to."""
        if end.stream.lost is not None or end.stopped or end.clean or end.broken:
            return ""
        sender = self.ends.get((end.key, end.process.role.peer))
        if sender is None:
            return "the peer does not know it"
        if sender.finished or sender.aborted:
            return "no end"
        return "" if end.received == sender.sent else f"{sender.sent - end.received} bytes"

    def _check_usable(self) -> None:
        """Check that a session that stands carries a new stream, both ways."""
        for process in list(self.processes):
            for old in list(process.ends.values()):
                if not process.engine.can_open:
                    process.abort(old)
            engine = process.engine
            self._await("room for a stream", lambda engine=engine: engine.can_open)
            end = process.open()
            if end is None:
                raise Broken(f"{process} cannot open a stream: {self.explain()}")
            process.send(end, 10)
            process.finish(end)
            there = (end.key, process.role.peer)
            self._await("a new stream", lambda there=there: there in self.ends)
            other = self.ends[there]
            self._await("the end of a new stream", lambda other=other: other.clean)
            other.process.send(other, 10)
            other.process.finish(other)
            self._await("the answer on a new stream", lambda end=end: end.clean)

    def _await(self, what: str, done: Callable[[], bool]) -> None:
        until = self.now + 60
        while not done():
            check(self.now < until, what, "does not come:", self.explain())
            self.run(POLL, serve)


def serve(process: Process) -> None:
    """Be an application that accepts and takes everything."""
    for end in list(process.ends.values()):
        process.accept(end)
        process.take(end, 1 << 30)
        if end.stream.ended and (end.clean or end.broken):
            process.engine.release(end.stream)


# Steps by chance, for the proofs that guards matter: thousands of schedules in seconds


def configs_of(rng: random.Random) -> dict[Role, EngineConfig]:
    """Draw how both sides are set up."""
    heartbeat, peer_timeout = rng.choice(((5000, 60000), (1000, 10000), (500, 3000)))
    return {
        role: EngineConfig(
            capacity=wire.MIN_CAPACITY + PAGE * rng.choice((0, 0, 1, 64)),
            max_batch=rng.choice((wire.MIN_MAX_BATCH, wire.DEFAULT_MAX_BATCH)),
            max_streams=rng.choice((2, 8, 4096)),
            initial_credit=rng.choice((1, 1000, 65536, 1 << 20)),
            heartbeat=heartbeat,
            peer_timeout=peer_timeout,
        )
        for role in Role
    }


SIZES: Final = (1, 15, 16, 17, 100, 1000, 4096, 30_000, 65_536, SEND_BUFFER)
PAUSES: Final = (0.0, 0.01, 0.1, 0.6, 2.1, 6.0, 20.0, 70.0)
DAMAGES: Final = ("delete", "empty", "halve", "garble", "garble head", "zero")
STALENESS: Final = (0.0, 0.1, 0.5, 0.9)


@attrs.frozen
class Chances:
    """What a random schedule may do: faults can be left out."""

    kills: bool = True
    faults: bool = True
    damages: bool = True
    twins: bool = False
    stale_start: bool = True
    replays: bool = False


def _some_process(world: World, rng: random.Random) -> Process | None:
    return rng.choice(world.processes) if world.processes else None


def _some_end(process: Process, rng: random.Random) -> End | None:
    ends = list(process.ends.values())[-6:]
    return rng.choice(ends) if ends else None


def step(world: World, rng: random.Random, chances: Chances) -> None:
    """Take one random step."""
    kind = rng.random()
    process = _some_process(world, rng)
    if process is None or kind < 0.03:
        _live(world, rng, chances)
    elif kind < 0.30:
        _step_file(world, process, rng, chances)
    elif kind < 0.50:
        process.begin_read(rng.choice((1, 2, 9)))
        if rng.random() < 0.9:
            process.end_read(rng.randrange(MOST_READS))
    elif kind < 0.85:
        _step_application(process, rng)
    elif kind < 0.88:
        world.stale = rng.choice(STALENESS)
    elif kind < 0.93:
        world.now += rng.choice(PAUSES[:6] if rng.random() < 0.9 else PAUSES)
    elif kind < 0.98:
        world.run(rng.choice((0.1, 0.5, 3.0)), serve if rng.random() < 0.5 else None)
    elif chances.damages and rng.random() < 0.3:
        world.damage(process.role, rng.choice(DAMAGES), rng)
    elif chances.replays and rng.random() < 0.8:
        world.copy(rng.choice(list(Role)), rng)
        world.put_back(rng.choice(list(Role)), rng)
    else:
        process.look_after_files()
    world.reap()


def _live(world: World, rng: random.Random, chances: Chances) -> None:
    role = rng.choice(list(Role))
    alive = world.alive(role)
    if not alive or (chances.twins and len(alive) < 3 and rng.random() < 0.3):
        before = world.stale
        world.stale = before if chances.stale_start else 0.0
        world.start(role)
        world.stale = before
    elif chances.kills and rng.random() < 0.7:
        world.kill(rng.choice(alive), rng)
    elif rng.random() < 0.2:
        rng.choice(alive).close()


def _step_file(world: World, process: Process, rng: random.Random, chances: Chances) -> None:
    for _ in range(rng.choice((1, 1, 1, 3, 9))):
        process.begin_write()
    fate = rng.random()
    if fate < 0.1 and chances.faults:
        process.fail_write(rng, rng.randrange(VERSIONS))
    elif fate < 0.2:
        process.show_part(rng)
    elif fate < 0.25 and chances.faults:
        world.land(rng)
    else:
        process.end_write(rng.randrange(MOST_WRITES))


def _step_application(process: Process, rng: random.Random) -> None:
    end = _some_end(process, rng)
    kind = rng.random()
    if end is None or kind < 0.15:
        process.open()
    elif kind < 0.18:
        process.flood()
    elif kind < 0.20:
        process.drip(end, rng.choice((3, 30, 300)))
    elif kind < 0.55:
        process.send(end, rng.choice(SIZES))
    elif kind < 0.75:
        process.take(end, rng.choice(SIZES))
    elif kind < 0.90:
        process.accept(end)
    else:
        act = rng.choice((process.finish, process.abort, process.close_stream, process.refuse))
        act(end)


def explore(
    seed: int,
    steps: int = 150,
    chances: Chances | None = None,
    make_blocks: Callable[[], Blocks] = lambda: CHECKSUM_BLOCKS,
) -> World:
    """Run one random schedule to its end, which must be good. Raises Broken."""
    rng = random.Random(seed)
    chances = chances or Chances()
    world = World.of(configs_of(rng), seed + 1)
    world.make_blocks = make_blocks
    for role in rng.sample(list(Role), 2):
        world.start(role)
    for _ in range(steps):
        step(world, rng, chances)
    world.settle()
    return world
