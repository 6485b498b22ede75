"""Whole sides, step by step, on a filesystem without faults unless a test makes one."""

from __future__ import annotations

import random

import attrs

from muxfs.core import wire
from muxfs.core.engine import EngineConfig, State
from muxfs.core.events import Lost
from muxfs.core.repair import FIRST_BACKOFF, Repair
from muxfs.core.stream import Ending
from muxfs.core.wire import Birth, Code, Incarnation, Role, Status
from tests.core.machine import End, Process, World, serve

GIVEN_UP = Ending(Code.CANCELLED)
CONFIG = EngineConfig(capacity=wire.MIN_CAPACITY, heartbeat=1000, peer_timeout=10_000)


def established(
    of_both: EngineConfig = CONFIG, **of_listen: object
) -> tuple[World, Process, Process]:
    """Make a world in which both sides have met: the world, dial and listen."""
    configs = {Role.DIAL: of_both, Role.LISTEN: attrs.evolve(of_both, **of_listen)}
    world = World.of(configs, seed=1)
    dial, listen = world.start(Role.DIAL), world.start(Role.LISTEN)
    world.run(1.0)
    assert dial.engine.link.established
    assert listen.engine.link.established
    return world, dial, listen


def opened(process: Process) -> End:
    """Open a stream."""
    end = process.open()
    assert end is not None
    return end


def other(world: World, end: End) -> End:
    """Return the far end of a stream."""
    return world.ends[end.key, end.process.role.peer]


def stream_that_ended(world: World, opener: Process) -> tuple[End, End]:
    """Run a stream to the clean end of both directions, and let neither application go."""
    end = opened(opener)
    opener.send(end, 10)
    opener.finish(end)
    world.run(1.0, serve)
    far = other(world, end)
    far.process.finish(far)
    world.run(1.0, serve)
    assert end.stream.ended
    assert far.stream.ended
    return end, far


def test_streams_of_an_earlier_session_leave_those_of_the_next_alone() -> None:
    world, dial, listen = established()
    old, _ = stream_that_ended(world, dial)
    world.kill(listen)
    world.start(Role.LISTEN)
    world.run(3.0)
    new = opened(dial)
    assert new.stream.stream_id == old.stream.stream_id
    dial.engine.abort(old.stream, GIVEN_UP)
    dial.send(new, 100)
    dial.finish(new)
    world.run(2.0, serve)
    assert other(world, new).clean
    assert dial.engine.open_streams == 1


def test_an_old_stream_that_is_accepted_or_released_late_says_nothing_to_the_next_session() -> None:
    world, dial, listen = established(max_streams=1)
    end = opened(dial)
    dial.abort(end)
    world.run(1.0)
    old = other(world, end)
    assert old.stream.ended
    world.kill(dial)
    dial = world.start(Role.DIAL)
    world.run(3.0)
    listen.accept(old)
    listen.engine.release(old.stream)
    world.run(1.0, serve)
    first, second = opened(dial), dial.open()
    world.run(1.0, serve)
    assert other(world, first).stream.accepted
    assert second is None  # the limit is one stream, still
    assert listen.conversation is not None
    assert listen.conversation.streams._peer_live == 1


def test_a_clash_with_the_last_generation_is_an_error_and_no_crash() -> None:
    world, dial, _ = established()
    incarnation = Incarnation(5, bytes(16))
    born = wire.encode_birth(Birth(Role.LISTEN, incarnation))
    status = wire.encode_status(Status(incarnation, Incarnation(2**64 - 1, bytes(16)), 1))
    dial.engine.receive_head(born.ljust(2 * wire.PAGE, b"\0") + status, world.now)
    assert dial.engine.ending is not None
    assert dial.engine.ending.code is Code.PROTOCOL
    assert dial.engine.next_write(world.now) is not None


def test_two_sides_that_know_a_dead_twin_of_each_other_meet_all_the_same() -> None:
    """Both files were lost, and both sides used the numbers of dead ones again."""
    world = World.of(dict.fromkeys(Role, CONFIG), seed=1)
    sides = {role: world.start(role) for role in Role}
    for role in Role:
        dead = Birth(role.peer, Incarnation(1, bytes([role]) * 16))
        sides[role].engine.receive_head(wire.encode_birth(dead), world.now)
    world.run(3.0)
    assert all(process.engine.link.established for process in sides.values())


def reasons(process: Process) -> list[Code]:
    """Return why sessions of this process were lost."""
    return [event.ending.code for event in process.events if isinstance(event, Lost)]


def test_closing_is_told_although_the_write_of_its_notice_fails() -> None:
    """The closing status names the position after the notice: the peer waits for it."""
    world, dial, listen = established()
    listen.close()
    for _ in range(2):
        listen.begin_write()
        listen.fail_write(random.Random(1), 0)
        world.now += 1
    world.run(2.0)
    assert listen not in world.processes
    assert reasons(dial) == [Code.SHUTDOWN]


def test_the_closing_status_waits_for_the_writes_under_way() -> None:
    """It names the final position: who reads it first would wait for batches that never come."""
    world, dial, _ = established()
    engine, now = dial.engine, world.now
    end = opened(dial)
    engine.send(end.stream, b"the last words")
    data = engine.next_write(now)
    assert data is not None
    engine.close(Ending(Code.SHUTDOWN))
    notice = engine.next_write(now + 1)
    assert notice is not None
    for write in (notice, data):
        assert not write.in_head
        assert engine.next_write(now + 9) is None
        assert not engine.finished
        engine.write_done(write, now + 9)
    closing = engine.next_write(now + 9)
    assert closing is not None
    told = wire.decode_status(b"".join(closing.buffers))
    assert told is not None
    assert told.closed
    assert not engine.finished
    engine.write_done(closing, now + 9)
    assert engine.finished


def test_writes_that_fail_together_count_as_one_failure() -> None:
    repair = Repair()
    for now in (0.0, 0.01, 0.05):
        repair.failed(now)
    assert repair.retry_at == FIRST_BACKOFF
    repair.failed(1.0)
    assert repair.retry_at == 1.0 + 2 * FIRST_BACKOFF


def test_closing_waits_for_what_is_being_written_again() -> None:
    world, dial, listen = established()
    end = opened(listen)
    listen.send(end, 3000)
    listen.finish(end)
    listen.write_all()
    listen.own.write(wire.RING_OFFSET, [bytes(8192)])
    listen.engine.restore()
    listen.close()
    world.run(2.0)
    serve(dial)
    assert other(world, end).clean
    assert reasons(dial) == [Code.SHUTDOWN]


def test_a_killed_peer_is_silent_after_three_heartbeats_and_dead_after_its_timeout() -> None:
    world, dial, listen = established(attrs.evolve(CONFIG, heartbeat=500, peer_timeout=3000))
    world.kill(listen)
    world.run(2.0)
    assert dial.engine.state is State.SILENT
    world.run(2.0)
    assert dial.engine.state is State.WAITING
    assert reasons(dial) == [Code.PEER_DEAD]


def test_a_side_whose_stream_ids_are_used_up_is_born_again() -> None:
    world, dial, listen = established()
    generation = dial.engine.link.own.incarnation.generation
    assert dial.conversation is not None
    streams = dial.conversation.streams
    streams._next_id = (1 << 32) - 1
    opened(dial)
    world.run(2.0)
    assert dial.engine.link.own.incarnation.generation == generation + 1
    assert listen.engine.link.established
    assert dial.engine.can_open


def test_the_own_batches_are_not_the_peers() -> None:
    """A mailbox's ring that was copied into the other file must not be read as the peer's."""
    world, dial, _ = established()
    end = opened(dial)
    dial.send(end, 1000)
    world.run(0.5, serve)
    ring = slice(wire.RING_OFFSET, wire.RING_OFFSET + CONFIG.capacity)
    own = dial.own.read(ring.start, CONFIG.capacity)
    assert dial.conversation is not None
    inbound, outbound = dial.conversation.inbound, dial.conversation.out
    inbound.position = 0
    piece = inbound.first_piece()
    assert piece.length
    assert list(inbound.receive(piece, own[: piece.length])) == []
    assert inbound.epoch != outbound.epoch
