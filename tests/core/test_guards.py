"""Each guard of the protocol matters: without it the same machine breaks a promise.

A test of a protocol is worth as much as the faults it finds. So each guard is
removed in turn, and `tests.core.machine` must then find wrong bytes, a session
error that nobody caused, or a session that never heals. Three kinds:

* `BY_CHANCE`: the random schedules that pass in test_sessions_on_bad_storage find it.
* `DIRECTED`: chance finds it too rarely (once in hundreds of schedules or less), so a
  schedule is written down. It passes with the guard.
* `IN_DEPTH`: no schedule of the machine fails without it, and it is not claimed that
  one exists. Another guard covers for it, or it only makes things faster; what it is
  for is said beside it. The test holds these entries to that: some would be news.

A guard is removed only where it decides: the reading side of the epoch, for
instance, so that the machine's own book-keeping of written batches stays meaningful.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs
import pytest

from muxfs.core import link, wire
from muxfs.core.engine import Engine, EngineConfig, State
from muxfs.core.link import Link, Meeting
from muxfs.core.outbound import SendRing
from muxfs.core.stream import ReceiveHalf, ReceiveState, SendHalf
from muxfs.core.wire import (
    HEAD_LENGTH,
    RING_OFFSET,
    BatchHeader,
    Birth,
    Incarnation,
    Role,
    Status,
)
from tests.core.machine import Broken, Chances, Process, World, check, explore, serve

Patch: TypeAlias = pytest.MonkeyPatch
Removal: TypeAlias = Callable[[Patch], None]
Schedule: TypeAlias = Callable[[], None]

SCHEDULES: Final = 150
"""Random schedules until a removed guard must have been missed: those of the default run."""

IN_DEPTH_SCHEDULES: Final = 15

# Removals


def without_order_of_generations(patch: Patch) -> None:
    """Any other incarnation is a new peer, also one that an old page shows."""

    def is_new(self: Link, birth: Birth) -> bool:
        return self.peer is None or birth.incarnation != self.peer.incarnation

    patch.setattr(Link, "_is_new", is_new)


_decode_batch_header = wire.decode_batch_header


def without_epoch(patch: Patch) -> None:
    """Batches of any session are valid."""

    def decode(data: wire.Buffer, _epoch: int, position: int) -> BatchHeader | None:
        return _decode_batch_header(data, int.from_bytes(data[8:16]), position)

    patch.setattr(wire, "decode_batch_header", decode)


def without_position(patch: Patch) -> None:
    """Batches of any lap are valid."""

    def decode(data: wire.Buffer, epoch: int, _position: int) -> BatchHeader | None:
        return _decode_batch_header(data, epoch, int.from_bytes(data[16:24]))

    patch.setattr(wire, "decode_batch_header", decode)


def without_checksum_of_batches(patch: Patch) -> None:
    patch.setattr(wire, "verify_batch", lambda _batch: True)


def without_checksum_of_head_blocks(patch: Patch) -> None:
    patch.setattr(wire, "_whole", lambda _data, _length: True)


def without_echo(patch: Patch) -> None:
    """Any status of the peer establishes the session, whomever it echoes."""
    judge = Link._judge_echo
    patch.setattr(Link, "_judge_echo", lambda self, _echo: judge(self, self.own.incarnation))


def without_echo_of_acks(patch: Patch) -> None:
    """Acks are taken from any valid status of the peer's file, whomever it echoes."""
    receive_head = Engine.receive_head

    def receive(self: Engine, head: bytes, now: float) -> None:
        receive_head(self, head, now)
        for status in wire.decode_statuses(head):
            if self._conversation is not None:
                # one beyond the write position would be found out: the others are the danger
                out = self._conversation.out
                out.acknowledge(min(status.read_position, out.position), now)

    patch.setattr(Engine, "receive_head", receive)


def without_incarnation_of_statuses(patch: Patch) -> None:
    """The newest status counts, also that of another life."""
    patch.setattr(link, "newest_status", lambda found, _: next(reversed(found), None))


def without_order_of_beats(patch: Patch) -> None:
    """An older status counts as well as a newer one."""
    observe = Link.observe

    def any_beat(self: Link, head: bytes, now: float) -> list[Meeting]:
        known = self.status
        if known is not None:
            self.status = attrs.evolve(known, beat=-1)
        meetings = observe(self, head, now)
        if self.status is not None and self.status.beat == -1:
            self.status = known
        return meetings

    patch.setattr(Link, "observe", any_beat)


def without_waiting_for_acks(patch: Patch) -> None:
    """Batches are placed over those that nobody acknowledged."""

    def room(self: SendRing) -> int:
        return self.capacity - self.position % self.capacity

    patch.setattr(SendRing, "room", property(room))
    patch.setattr(Process, "_check_positions", lambda _self: None)  # it would see that at once


def without_keeping_what_is_unacknowledged(patch: Patch) -> None:
    patch.setattr(SendRing, "rewrite_all", lambda _self: None)


def without_repair_after_failed_writes(patch: Patch) -> None:
    patch.setattr(Engine, "restore", lambda _self: None)


def without_retransmission(patch: Patch) -> None:
    """Nothing is written again because acks stand still."""

    def wait(self: SendRing, now: float) -> None:
        if now >= self.retry_at:
            self._progress_at = now

    patch.setattr(SendRing, "handle_timeout", wait)


def without_acks_in_statuses(patch: Patch) -> None:
    """Acks are in batches only."""
    encode = wire.encode_status
    patch.setattr(wire, "encode_status", lambda status: encode(_without_ack(status)))


def _without_ack(status: Status) -> Status:
    return attrs.evolve(status, read_position=0)


def without_clashes(patch: Patch) -> None:
    """A side whose number was used by somebody else keeps it."""
    judge = Link._judge_echo

    def judge_echo(self: Link, echo: Incarnation | None) -> list[Meeting]:
        return [meeting for meeting in judge(self, echo) if meeting is not Meeting.CLASH]

    patch.setattr(Link, "_judge_echo", judge_echo)
    without_clashes_in_unknown_statuses(patch)


def without_clashes_in_unknown_statuses(patch: Patch) -> None:
    patch.setattr(Link, "_find_clash", lambda _self, _head: [])


def without_superseding(patch: Patch) -> None:
    """A side that the peer has left for another of its role goes on."""
    judge = Link._judge_echo

    def judge_echo(self: Link, echo: Incarnation | None) -> list[Meeting]:
        return [meeting for meeting in judge(self, echo) if meeting is not Meeting.SUPERSEDED]

    patch.setattr(Link, "_judge_echo", judge_echo)


def without_looking_at_the_own_file(patch: Patch) -> None:
    patch.setattr(Engine, "receive_own", lambda _self, _head, _now: None)


def without_minding_credit(patch: Patch) -> None:
    """The sender sends all it has."""
    emit = SendHalf.emit

    def emit_all(self: SendHalf, most: int) -> tuple[list[wire.Buffer], int]:
        limit, self.limit = self.limit, wire.MAX_SEQUENCE
        emitted = emit(self, most)
        self.limit = limit
        return emitted

    def sendable(self: SendHalf) -> bool:
        return bool(self.queued)

    patch.setattr(SendHalf, "emit", emit_all)
    patch.setattr(SendHalf, "sendable", property(sendable))


def without_checking_credit(patch: Patch) -> None:
    """The receiver keeps whatever comes, and the sender sends all it has."""
    without_minding_credit(patch)
    receive = ReceiveHalf.receive

    def receive_all(
        self: ReceiveHalf, sequence: int, payload: memoryview, fin: bool, whole: int
    ) -> None:
        limit, self.window.limit = self.window.limit, wire.MAX_SEQUENCE
        receive(self, sequence, payload, fin, whole)
        self.window.limit = limit

    patch.setattr(ReceiveHalf, "receive", receive_all)


def without_death(patch: Patch) -> None:
    patch.setattr(Link, "dead", property(lambda _self: False))


def without_the_final_position(patch: Patch) -> None:
    """A peer that closed is left at once, whatever of it is still to be read."""
    observe = Link.observe

    def forget(self: Link, head: bytes, now: float) -> list[Meeting]:
        meetings = observe(self, head, now)
        if self.status is not None:
            self.status = attrs.evolve(self.status, write_position=0)
        return meetings

    patch.setattr(Link, "observe", forget)


def without_the_second_status_slot(patch: Patch) -> None:
    patch.setattr(wire, "status_offset", lambda _beat: wire.PAGE)


def without_the_peers_echo_at_the_start(patch: Patch) -> None:
    first = link.first_generation
    patch.setattr(link, "first_generation", lambda own, _peer, *rest: first(own, b"", *rest))


def without_the_own_file_at_the_start(patch: Patch) -> None:
    first = link.first_generation
    patch.setattr(link, "first_generation", lambda _own, peer, *rest: first(b"", peer, *rest))


def without_notices(patch: Patch) -> None:
    patch.setattr(Engine, "close", Engine._close)


def without_sequence_numbers(patch: Patch) -> None:
    receive = ReceiveHalf.receive

    def receive_next(
        self: ReceiveHalf, _sequence: int, payload: memoryview, fin: bool, whole: int
    ) -> None:
        receive(self, self.expected, payload, fin, whole)

    patch.setattr(ReceiveHalf, "receive", receive_next)


def without_monotone_acks(patch: Patch) -> None:
    """A lower ack than known is taken, too."""
    acknowledge = SendRing.acknowledge

    def take(self: SendRing, ack: int, now: float) -> int:
        freed = acknowledge(self, ack, now)
        self.acknowledged = ack
        return freed

    patch.setattr(SendRing, "acknowledge", take)
    patch.setattr(Process, "_check_positions", lambda _self: None)  # it would see that at once


# Schedules that are written down

CONFIG: Final = EngineConfig(capacity=wire.MIN_CAPACITY, initial_credit=1 << 20, heartbeat=1000)


def _met() -> tuple[World, Process, Process]:
    world = World.of(dict.fromkeys(Role, CONFIG), seed=7)
    dial, listen = world.start(Role.DIAL), world.start(Role.LISTEN)
    world.run(1.0)
    return world, dial, listen


def reader_is_late() -> None:
    """The writer has more to send than its ring holds, and nobody reads for a while."""
    world, dial, _ = _met()
    dial.open()
    dial.flood()
    world.settle()


def file_is_overwritten() -> None:
    """A batch that was written is gone, and no error ever tells the writer."""
    world, dial, _ = _met()
    end = dial.open()
    assert end is not None
    dial.send(end, 5000)
    dial.write_all()
    dial.own.write(RING_OFFSET, [bytes(wire.MIN_CAPACITY)])
    world.settle()


def old_status_is_seen_again() -> None:
    """A peer that had read much says so; then its reader is started again, and reads less."""
    world, dial, listen = _met()
    end = dial.open()
    assert end is not None
    dial.send(end, 50_000)
    world.run(7.0)
    old = listen.own.read(0, HEAD_LENGTH)
    world.kill(dial)
    dial = world.start(Role.DIAL)
    world.run(3.0)
    end = dial.open()
    assert end is not None
    dial.send(end, 5000)
    dial.write_all()
    dial.engine.receive_head(old, world.now)
    dial.own.write(RING_OFFSET, [bytes(wire.MIN_CAPACITY)])
    world.settle()


def both_rings_are_full() -> None:
    """Neither side has room for a batch that would carry the ack that the other waits for."""
    world = World.of(dict.fromkeys(Role, CONFIG), seed=7)
    dial, listen = world.start(Role.DIAL), world.start(Role.LISTEN)
    listen.write_all()
    for process, heads in ((dial, 2), (listen, 1)):
        process.begin_read()
        process.end_read()
        process.write_all(heads)  # birth block and status, and no batch yet
    for process in (listen, dial):
        process.begin_read()
        process.end_read()  # only the head, so that no batch carries an ack
        process.open()
        process.flood()
        assert process.engine.in_flight == wire.MIN_CAPACITY
    for process in (dial, listen):
        process.read_all()  # and its ring is as full as before
    world.settle()


def started_on_old_views() -> None:
    """A side that is started again sees nothing of its former lives."""
    world, dial, listen = _met()
    world.kill(listen)
    listen = world.start(Role.LISTEN)
    world.run(1.0)
    world.kill(listen)
    world.files[Role.LISTEN] = None
    file = world.files[Role.DIAL]
    assert file is not None
    head = file.read(0, HEAD_LENGTH)
    file.write(0, [bytes(HEAD_LENGTH)])
    world.start(Role.LISTEN)
    file.write(0, [head])
    dial.peer = None
    world.settle()


def both_know_a_dead_twin() -> None:
    """Each side has seen a dead one of the other that had the number of the living one."""
    world = World.of(dict.fromkeys(Role, CONFIG), seed=7)
    for role in Role:
        dead = Birth(role.peer, Incarnation(1, bytes([role]) * 16))
        world.start(role).engine.receive_head(wire.encode_birth(dead), world.now)
    world.settle()


def own_head_is_overwritten() -> None:
    """The birth block is gone, and later the peer is started again and needs it."""
    world, dial, listen = _met()
    dial.own.write(0, [bytes(wire.PAGE)])
    world.kill(listen)
    world.settle()


def consumer_stalls() -> None:
    """The application of the receiving side takes nothing."""
    world, dial, listen = _met()
    dial.open()
    for _ in range(20):
        dial.flood()
        listen.read_all()
        world.run(0.2)


def peer_is_gone() -> None:
    """The peer is killed and never comes back: whoever waits for it must learn that."""
    world, dial, listen = _met()
    end = dial.open()
    assert end is not None
    world.kill(listen)
    world.run(2 * CONFIG.peer_timeout / 1000)
    check(end.stream.lost is not None, end, "waits for ever")


def closing_is_seen_before_the_data() -> None:
    """The closing status is visible before the batches that were written before it."""
    world, dial, listen = _met()
    end = listen.open()
    assert end is not None
    listen.send(end, 5000)
    listen.finish(end)
    listen.write_all()
    listen.close()
    listen.write_all()
    dial.engine.receive_head(listen.own.read(0, HEAD_LENGTH), world.now)
    dial.look()
    world.run(1.0)
    serve(dial)
    other = world.ends.get((end.key, Role.DIAL))
    check(other is not None and other.clean, "what was sent before the closing is lost")
    check(other is not None and other.stream.receive.state is ReceiveState.FINISHED, "no end")


def taken_over_unawares() -> None:
    """Another process of its role is at work, and its own file does not tell it so."""
    world, dial, listen = _met()
    listen.next_look = math.inf
    other = world.start(Role.LISTEN)
    world.run(10.0)
    check(listen not in world.processes, listen, "goes on although", other, "took over")
    check(dial.engine.state is State.ESTABLISHED, dial, "has nobody")


# The tests

BY_CHANCE: Final[dict[Removal, bool]] = {  # and whether with several live processes of a role
    without_order_of_generations: False,
    without_epoch: False,
    without_position: False,
    without_checksum_of_batches: False,
    without_checksum_of_head_blocks: False,
    without_echo: False,
    without_incarnation_of_statuses: False,
    without_keeping_what_is_unacknowledged: False,
    without_repair_after_failed_writes: False,
    without_minding_credit: False,
    without_looking_at_the_own_file: True,
}

DIRECTED: Final[dict[Removal, Schedule]] = {
    without_echo_of_acks: old_status_is_seen_again,
    without_waiting_for_acks: reader_is_late,
    without_retransmission: file_is_overwritten,
    without_acks_in_statuses: both_rings_are_full,
    without_superseding: taken_over_unawares,
    without_clashes: started_on_old_views,
    without_clashes_in_unknown_statuses: both_know_a_dead_twin,
    without_looking_at_the_own_file: own_head_is_overwritten,
    without_checking_credit: consumer_stalls,
    without_death: peer_is_gone,
    without_the_final_position: closing_is_seen_before_the_data,
}

IN_DEPTH: Final[dict[Removal, str]] = {
    without_order_of_beats: (
        "a status counts only if it echoes this very life, and what it acknowledges only grows;"
        " nothing was found in 3,900 schedules"
    ),
    without_the_second_status_slot: (
        "a torn status is followed by a whole one: it saves a heartbeat of silence"
    ),
    without_the_peers_echo_at_the_start: "a clash finds a number that was used before",
    without_the_own_file_at_the_start: "the same",
    without_notices: "the closing status is found with the next look at the head",
    without_sequence_numbers: (
        "epoch, position and checksum bring every batch once and in order: it finds a peer's bug"
    ),
    without_monotone_acks: "more seems to be in flight than is: it is slower, and not wrong",
}


def _name(item: Callable[..., None]) -> str:
    return item.__name__.removeprefix("without_").replace("_", " ")


@pytest.mark.parametrize("removal", BY_CHANCE, ids=_name)
def test_chance_finds_a_missing_guard(removal: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    removal(monkeypatch)
    chances = Chances(twins=BY_CHANCE[removal])
    with pytest.raises((Broken, struct.error)):  # beyond its credit a length may be negative
        any(explore(n, chances=chances) is None for n in range(SCHEDULES))


@pytest.mark.parametrize("removal", DIRECTED, ids=_name)
def test_a_written_schedule_finds_a_missing_guard(
    removal: Removal, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = DIRECTED[removal]
    schedule()
    removal(monkeypatch)
    with pytest.raises(Broken):
        schedule()


@pytest.mark.parametrize("removal", IN_DEPTH, ids=_name)
def test_nothing_is_claimed_of_a_guard_in_depth(
    removal: Removal, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal(monkeypatch)
    for seed in range(IN_DEPTH_SCHEDULES):
        explore(seed)
