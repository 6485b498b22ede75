"""A peer that writes whatever it likes, with right checksums: a session error, or nothing.

What has no right checksum never gets so far: see test_wire_fuzz. Here the peer
echoes us, knows the epoch and the positions, and so reaches everything behind them.
"""

from __future__ import annotations

import os
import random

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from muxfs.core import wire
from muxfs.core.stream import Ending, Stream
from muxfs.core.wire import (
    BATCH_HEADER,
    MAX_SEQUENCE,
    RING_OFFSET,
    Birth,
    Code,
    Frame,
    FrameType,
    Incarnation,
    Role,
    Status,
)
from muxfs.storage.memory_file import MemoryFile
from tests.core.machine import End, Key, Process, World, check, configs_of, serve

THOROUGH = os.environ.get("MUXFS_FUZZ") == "thorough"
FUZZ = settings(
    max_examples=5000 if THOROUGH else 120,
    stateful_step_count=100 if THOROUGH else 40,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=list(HealthCheck),
)
REASONS = {Code.PROTOCOL, Code.VERSION, Code.SUPERSEDED}

near = st.one_of(st.integers(0, 12), st.sampled_from([255, 256, 2**31, 2**32 - 1]))
sequences = st.one_of(
    st.integers(0, 40), st.sampled_from([65535, 65536, 65537, 2**20, MAX_SEQUENCE, 2**64 - 1])
)
payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([64, 65, 256, 257, 2000, 65536]).map(bytes),
    st.just(wire.encode_open("target", "originator")),
)
frames = st.builds(
    Frame,
    type=st.one_of(st.sampled_from(FrameType), st.integers(0, 255)),
    stream_id=near,
    sequence=sequences,
    payload=payloads,
    flags=st.sampled_from([0, 0, 0, 1, 2, 255]),
    code=st.sampled_from([0, 7, 21, 65535]),
)


class LawlessWorld(World):
    """What arrives is not judged; that nothing breaks is."""

    def judge_open(self, process: Process, key: Key, stream: Stream) -> None:
        pass

    def judge(self, end: End, piece: bytes) -> None:
        end.received += len(piece)

    def judge_end(self, end: End) -> None:
        end.broken = True

    def judge_failure(self, process: Process, ending: Ending) -> None:
        check(bool(ending.reason), process, "failed without a reason")
        check(ending.code in REASONS, process, "failed with", ending.code.name)


class HostilePeer(RuleBasedStateMachine):
    """One honest side, and the other side's file written by somebody who knows it all."""

    @initialize(seed=st.integers(0, 1000), role=st.sampled_from(Role))
    def begin(self, seed: int, role: Role) -> None:
        configs = configs_of(random.Random(seed))
        for each in Role:
            configs[each] = attrs.evolve(configs[each], max_streams=8)
        self.world = LawlessWorld.of(configs, seed)
        self.file = self.world.files[role.peer] = MemoryFile()
        self.file.truncate(self.world.size(role.peer))
        self.role = role
        self.meet()

    def meet(self) -> None:
        """Start the honest side, and be an honest peer for a moment."""
        self.file.write(0, [bytes(wire.HEAD_LENGTH)])
        self.me = self.world.start(self.role)
        self.incarnation = Incarnation(1, bytes(16))
        self.position = self.beat = 0
        capacity = self.world.configs[self.role.peer].capacity
        self.birth(Birth(self.role.peer, self.incarnation, capacity=capacity))
        self.turn()
        self.status()
        self.turn()
        check(self.me.engine.link.established, "no session to be hostile in")

    # What the peer writes

    def birth(self, birth: Birth) -> None:
        self.file.write(0, [wire.encode_birth(birth)])

    def status(self, **fields: object) -> None:
        self.beat += 1
        status = Status(self.incarnation, self.me.engine.link.own.incarnation, self.beat)
        encoded = wire.encode_status(attrs.evolve(status, **fields))
        self.file.write(wire.status_offset(self.beat), [encoded])

    def batch(self, contents: list[Frame], ack: int) -> None:
        if self.me.conversation is None:
            return
        epoch = self.me.conversation.inbound.epoch
        encoded = [wire.encode_frame(frame) for frame in contents]
        length = BATCH_HEADER + sum(map(len, encoded))
        capacity = self.world.configs[self.me.role.peer].capacity
        left = capacity - self.position % capacity
        if length > left:
            self.put(wire.encode_pad(epoch, self.position, ack))
            self.position += left
            self.me.read_all()
        self.put(wire.encode_batch(epoch, self.position, ack, encoded, len(encoded)))
        self.position += wire.align(length)

    def put(self, buffers: list[wire.Buffer]) -> None:
        capacity = self.world.configs[self.me.role.peer].capacity
        self.file.write(RING_OFFSET + self.position % capacity, buffers)

    @property
    def all_of_it(self) -> int:
        conversation = self.me.conversation
        return conversation.out.position if conversation is not None else 0

    @rule(contents=st.lists(frames, max_size=5), ack=st.sampled_from(["all", "none", "some"]))
    def some_frames(self, contents: list[Frame], ack: str) -> None:
        acks = {"all": self.all_of_it, "none": 0, "some": self.all_of_it // 2}
        self.batch(contents, acks[ack])
        self.turn()

    @rule(first=near, count=st.sampled_from([3, 300, 2000]))
    def opens(self, first: int, count: int) -> None:
        start_id = min(first * 2 + self.me.role, 2**32 - 2000)
        ids = range(start_id, start_id + 2 * min(count, 1000), 2)
        payload = wire.encode_open("", "")
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            self.batch([Frame(FrameType.OPEN, i, payload=payload) for i in some], self.all_of_it)
            self.turn()

    @rule(frame=frames, count=st.sampled_from([50, 1000]), times=st.integers(1, 8))
    def flood(self, frame: Frame, count: int, times: int) -> None:
        count = min(count, 60_000 // (wire.FRAME_HEADER + len(frame.payload)) or 1)
        for _ in range(times):
            self.batch([frame] * count, self.all_of_it)
            self.turn()

    @rule(stream_id=near, length=st.sampled_from([1, 100, 20_000]), count=st.integers(1, 500))
    def data(self, stream_id: int, length: int, count: int) -> None:
        """Data in sequence: it is taken as far as credit goes."""
        conversation = self.me.conversation
        stream = conversation.streams.streams.get(stream_id) if conversation else None
        at = stream.receive.expected if stream is not None else 0
        for number in range(min(count, 60_000 // (length + wire.FRAME_HEADER))):
            frame = Frame(FrameType.DATA, stream_id, at + number * length, bytes(length))
            self.batch([frame], 0)
            self.me.read_all()
        self.turn()

    @rule(ack=st.sampled_from([1, 63, 64, 65, -1, -64, 10**6, 2**63]), status=st.booleans())
    def wrong_ack(self, ack: int, status: bool) -> None:
        ack = max(0, ack + self.all_of_it if ack < 0 or ack > 10**5 else ack)
        if status:
            self.status(read_position=ack)
        else:
            self.batch([], ack)
        self.turn()

    @rule(
        generation=st.sampled_from([0, 1, 2, 5, 2**63 - 1, 2**64 - 1]),
        mine=st.sampled_from([0, 1, 2**62, 2**63 - 1]),
        write_position=sequences,
        beat=st.sampled_from([0, 1, 2**40]),
        closed=st.booleans(),
    )
    def odd_status(
        self, generation: int, mine: int, write_position: int, beat: int, closed: bool
    ) -> None:
        self.beat = min(self.beat + beat, 2**63)
        self.status(
            echo=Incarnation(generation, b"e" * 16) if generation else None,
            incarnation=Incarnation(mine, bytes(16)) if mine > 1 else self.incarnation,
            write_position=write_position,
            closed=closed,
        )
        self.turn()

    @rule(closed=st.booleans(), code=st.sampled_from(Code))
    def honest_status(self, closed: bool, code: Code) -> None:
        self.status(closed=closed, code=code, write_position=self.position)
        self.turn()

    @rule(
        generation=st.sampled_from([2, 3, 2**63 - 1]),
        capacity=st.sampled_from([wire.MIN_CAPACITY, wire.MAX_CAPACITY]),
        max_batch=st.sampled_from([wire.MIN_MAX_BATCH, wire.MAX_MAX_BATCH]),
        max_streams=st.sampled_from([0, 1, 2**32 - 1]),
        credit=st.sampled_from([0, 1, MAX_SEQUENCE]),
        required=st.sampled_from([0, 0, 0, 1, 2**63]),
        heartbeat=st.sampled_from([1, 1000, wire.MAX_HEARTBEAT_MS, 0, 2**32 - 1]),
        timeout=st.sampled_from([0, 3000, 3 * wire.MAX_HEARTBEAT_MS, 2**32 - 1, 1]),
    )
    def odd_birth(
        self,
        generation: int,
        capacity: int,
        max_batch: int,
        max_streams: int,
        credit: int,
        required: int,
        heartbeat: int,
        timeout: int,
    ) -> None:
        self.incarnation = Incarnation(generation, bytes(16))
        self.position = self.beat = 0
        self.birth(
            Birth(
                self.me.role.peer,
                self.incarnation,
                capacity,
                max_batch=max_batch,
                max_streams=max_streams,
                initial_credit=credit,
                features_required=required,
                heartbeat=heartbeat,
                peer_timeout=timeout,
            )
        )
        self.turn()
        self.status()
        self.turn()

    # What the honest side does

    @rule()
    def turn(self) -> None:
        self.world.run(0.2)

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def later(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.run(0.5)

    @rule()
    def served(self) -> None:
        self.world.run(0.2, serve)

    @rule(length=st.sampled_from([0, 1, 100_000]))
    def open(self, length: int) -> None:
        end = self.me.open()
        if end is not None:
            self.me.send(end, length)

    @rule(number=st.integers(0, 7), how=st.sampled_from(["finish", "abort", "close_stream"]))
    def part(self, number: int, how: str) -> None:
        ends = list(self.me.ends.values())
        if ends:
            getattr(self.me, how)(ends[number % len(ends)])

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "me"):
            self.me.look()
            self.me._check_memory()
            if self.me.engine.ending is not None:
                self.world.processes.clear()
                self.meet()


def test_hostile_peer() -> None:
    run_state_machine_as_test(HostilePeer, settings=FUZZ)


def test_the_peer_is_hostile() -> None:
    """The machine does reach the inside: data is taken, and offences are found."""
    machine = HostilePeer()
    machine.begin(1, Role.DIAL)
    machine.batch([Frame(FrameType.OPEN, 2, payload=wire.encode_open("a", "b"))], 0)
    machine.served()
    machine.data(2, 100, 1)
    machine.served()
    (end,) = machine.me.ends.values()
    assert end.received == 100
    machine.batch([Frame(FrameType.DATA, 2, 99, b"again")], 0)
    machine.served()
    assert machine.me.failed is not None
    assert machine.me.failed.code is Code.PROTOCOL
