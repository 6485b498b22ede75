"""The streams of one epoch: frames in, frames out."""

from __future__ import annotations

import pytest

from muxfs.core import wire
from muxfs.core.multiplexer import LARGE, Filling, Multiplexer, OutOfStreams
from muxfs.core.schedule import QUANTUM
from muxfs.core.stream import Ending, ReceiveState, SendState, Stream
from muxfs.core.wire import FRAME_HEADER, Code, Frame, FrameType, ProtocolViolation, Role

GIVEN_UP = Ending(Code.CANCELLED, "given up")
PLENTY = 1 << 20


def side(role: Role = Role.DIAL, streams: int = 8, credit: int = 1000) -> Multiplexer:
    """Make one side."""
    return Multiplexer(role, streams, credit, streams, credit)


def pair(streams: int = 8, credit: int = 1000) -> tuple[Multiplexer, Multiplexer]:
    """Make dial and listen side."""
    return side(Role.DIAL, streams, credit), side(Role.LISTEN, streams, credit)


def frames(out: Multiplexer, room: int = PLENTY, budget: int = PLENTY) -> list[Frame]:
    """Let a side fill one batch; return its frames."""
    filling = Filling(room)
    out.fill(filling, budget)
    body = b"".join(filling.parts)
    assert len(body) <= room
    assert filling.room == room - len(body)
    return list(wire.decode_frames(memoryview(body), filling.count))


def carry(out: Multiplexer, into: Multiplexer, room: int = PLENTY) -> list[Frame]:
    """Bring one batch over."""
    carried = frames(out, room)
    for frame in carried:
        into.receive(frame, room)
    return carried


def kinds(some: list[Frame]) -> list[str]:
    """Name the types of frames."""
    return [FrameType(frame.type).name for frame in some]


def opened(one: Multiplexer, two: Multiplexer) -> tuple[Stream, Stream]:
    """Open a stream and accept it: both ends."""
    near = one.open("target", "originator")
    carry(one, two)
    (far,) = two.changes.incoming
    two.changes.incoming.clear()
    two.accept(far, "bound")
    carry(two, one)
    assert near.accepted
    return near, far


def test_a_stream_from_end_to_end() -> None:
    dial, listen = pair()
    near, far = opened(dial, listen)
    assert (far.target, far.originator, near.bound_address) == ("target", "originator", "bound")
    dial.send(near, b"question")
    dial.finish(near)
    carry(dial, listen)
    assert bytes(far.receive.take(100)) == b"question"
    assert far.receive.state is ReceiveState.FINISHED
    listen.send(far, b"answer")
    listen.finish(far)
    carry(listen, dial)
    assert bytes(near.receive.take(100)) == b"answer"
    assert near.ended
    assert far.ended
    assert not dial.streams
    assert not listen.streams
    assert dial.idle


def test_ids_of_both_sides() -> None:
    dial, listen = pair()
    assert [dial.open("").stream_id for _ in range(3)] == [1, 3, 5]
    assert [listen.open("").stream_id for _ in range(3)] == [2, 4, 6]


def test_limits_of_opening() -> None:
    dial, listen = pair(streams=2)
    first, _ = opened(dial, listen)
    opened(dial, listen)
    assert not dial.can_open
    with pytest.raises(OutOfStreams):
        dial.open("")
    dial.reset(first, GIVEN_UP)
    dial.stop(first, GIVEN_UP)
    carry(dial, listen)
    carry(listen, dial)
    assert dial.can_open


def test_unanswered_streams_are_limited() -> None:
    dial = side(streams=1000)
    for _ in range(wire.MAX_PENDING_OPENS):
        dial.open("")
    assert not dial.can_open


def test_ids_run_out() -> None:
    dial = side()
    dial._next_id = (1 << 32) - 1
    dial.open("")
    assert dial.exhausted
    assert not dial.can_open


def test_too_many_streams_are_refused_until_the_application_lets_go() -> None:
    dial, listen = side(streams=99), side(Role.LISTEN, streams=1)
    near, far = opened(dial, listen)
    for stream, its in ((near, dial), (far, listen)):
        its.finish(stream)
    carry(dial, listen)
    carry(listen, dial)
    assert far.ended
    second = dial.open("")
    carry(dial, listen)
    assert not listen.changes.incoming
    carry(listen, dial)
    assert second.refusal == Ending(Code.LIMIT, "too many streams")
    listen.release(far)
    carry(dial, listen)
    third = dial.open("")
    carry(dial, listen)
    assert [stream.stream_id for stream in listen.changes.incoming] == [third.stream_id]


def test_a_peer_that_never_ends_refused_streams_is_an_offender() -> None:
    """Each refused stream waits for the peer's end: they must not pile up."""
    listen = side(Role.LISTEN, streams=2)
    payload = wire.encode_open("", "")
    most = 2 + wire.MAX_PENDING_OPENS
    for number in range(most):
        listen.receive(Frame(FrameType.OPEN, 2 * number + 1, payload=payload), 64)
        frames(listen)
    with pytest.raises(ProtocolViolation, match="more streams"):
        listen.receive(Frame(FrameType.OPEN, 2 * most + 1, payload=payload), 64)
    assert len(listen.streams) == most


def test_refusal() -> None:
    dial, listen = pair()
    near = dial.open("")
    dial.send(near, b"early")
    carry(dial, listen)
    listen.refuse(listen.changes.incoming[0], Ending(Code.REFUSED, "nobody home"))
    assert kinds(carry(listen, dial)) == ["STOP", "RESET"]
    assert near.refusal == Ending(Code.REFUSED, "nobody home")
    assert near.accepted
    assert kinds(carry(dial, listen)) == ["RESET"]
    assert not dial.streams
    assert not listen.streams


def test_an_answer_comes_once() -> None:
    dial, listen = pair()
    _, far = opened(dial, listen)
    listen.accept(far)
    assert not listen.has_control


def test_data_waits_for_its_open_and_its_accept() -> None:
    dial, listen = pair()
    near = dial.open("t" * 500)
    dial.send(near, b"data")
    assert frames(dial, room=200) == []
    carry(dial, listen)
    far = listen.changes.incoming[0]
    listen.accept(far, "b" * 200)
    listen.send(far, b"data")
    assert frames(listen, room=100) == []
    assert kinds(frames(listen)) == ["ACCEPT", "DATA"]


def test_a_stop_before_the_accept_is_not_followed_by_an_accept() -> None:
    dial, listen = pair()
    near = dial.open("")
    dial.send(near, bytes(2000))
    dial.finish(near)
    dial.stop(near, GIVEN_UP)
    carry(dial, listen)
    far = listen.changes.incoming[0]
    carry(listen, dial)
    listen.accept(far)
    carry(listen, dial)
    assert near.accepted


def test_credit_is_given_when_the_application_took_half() -> None:
    dial, listen = pair(credit=100)
    near, far = opened(dial, listen)
    dial.send(near, bytes(150))
    carry(dial, listen)
    assert (far.receive.buffered, near.send.queued) == (100, 50)
    assert not dial.has_data
    far.receive.take(49)
    listen.consume(far, 49, 9.0, 0.0)
    assert not listen.has_control
    far.receive.take(1)
    listen.consume(far, 1, 9.0, 0.0)
    assert kinds(carry(listen, dial)) == ["CREDIT"]
    assert near.send.limit == 150
    assert dial.has_data


def test_no_credit_after_the_peers_end_and_the_budget_stays_whole() -> None:
    """Windows that grew while the rest of an ended stream was taken were never given back."""
    dial, listen = pair(credit=1000)
    before = listen._budget.room
    near, far = opened(dial, listen)
    dial.send(near, bytes(900))
    dial.finish(near)
    listen.finish(far)
    carry(dial, listen)
    carry(listen, dial)
    assert far.ended
    while far.receive.buffered:
        listen.consume(far, len(far.receive.take(10)), 0.0, 1.0)
    assert not listen.has_control
    assert listen._budget.room == before


def test_what_a_window_grew_is_given_back_only_when_all_was_taken() -> None:
    """Others would grow by it, and what both hold is more than the session's budget."""
    dial, listen = pair(credit=1000)
    before = listen._budget.room
    near, far = opened(dial, listen)
    window = far.receive.window
    assert listen._budget.take(1000)
    window.size = window.limit = near.send.limit = 2000
    dial.send(near, bytes(2000))
    dial.finish(near)
    carry(dial, listen)
    far.receive.take(500)
    listen.consume(far, 500, 0.0, 1.0)
    assert listen._budget.room == before - 1000
    far.receive.take(1500)
    listen.consume(far, 1500, 0.0, 1.0)
    assert listen._budget.room == before


def test_control_frames_first_and_streams_share() -> None:
    dial, listen = pair(streams=3, credit=1 << 20)
    ends = [opened(dial, listen)[0] for _ in range(3)]
    for end in ends:
        dial.send(end, bytes(2 * QUANTUM))
    dial.ping(b"12345678")
    some = frames(dial, room=3 * QUANTUM)
    assert kinds(some)[0] == "PING"
    sent = {end.stream_id: 0 for end in ends}
    for frame in some[1:]:
        sent[frame.stream_id] += len(frame.payload)
    assert min(sent.values()) > QUANTUM // 2


def test_the_budget_of_a_batch_is_for_data_only() -> None:
    dial, listen = pair()
    near, _ = opened(dial, listen)
    dial.send(near, bytes(500))
    dial.ping(b"x")
    filling = Filling(PLENTY)
    dial.fill(filling, 100)
    assert filling.count == 2
    assert near.send.offset == 100
    assert kinds(frames(dial, budget=0)) == []


def test_reset_tells_code_reason_and_size() -> None:
    dial, listen = pair()
    near, far = opened(dial, listen)
    dial.send(near, b"abc")
    dial.reset(near, GIVEN_UP)
    carried = carry(dial, listen)
    assert kinds(carried) == ["DATA", "RESET"]
    assert carried[1].sequence == 3
    assert far.receive.state is ReceiveState.RESET
    assert far.receive.ending == GIVEN_UP
    assert bytes(far.receive.take(9)) == b"abc"


def test_stop_is_answered_with_a_reset_of_the_same_code() -> None:
    dial, listen = pair()
    near, far = opened(dial, listen)
    dial.send(near, bytes(2000))
    carry(dial, listen)
    listen.stop(far, GIVEN_UP)
    carry(listen, dial)
    assert near.send.queued == 0
    (reset,) = carry(dial, listen)
    assert (reset.type, reset.code, reset.sequence) == (FrameType.RESET, Code.CANCELLED, 1000)


def test_data_after_an_own_stop_is_dropped() -> None:
    dial, listen = pair()
    near, far = opened(dial, listen)
    listen.stop(far, GIVEN_UP)
    dial.send(near, b"late")
    carry(dial, listen)
    assert far.receive.buffered == 0


def test_pings_are_answered_and_bounded() -> None:
    dial, listen = pair()
    dial.ping(b"12345678")
    carry(dial, listen)
    assert kinds(carry(listen, dial)) == ["PONG"]
    assert dial.changes.pongs == [b"12345678"]
    for _ in range(100):
        listen.receive(Frame(FrameType.PING, 0, payload=b"x"), 64)
    assert len(frames(listen)) == wire.MAX_PENDING_PINGS


def test_pings_that_cannot_go_out_do_not_pile_up() -> None:
    """A peer that slept for a day behind a full ring must not end in a flood of our own."""
    dial, listen = pair()
    for number in range(wire.MAX_CONTROL_QUEUE + 1):
        dial.ping(b"%d" % number)
        assert frames(dial, room=FRAME_HEADER) == []
    dial.receive(Frame(FrameType.PONG, 0), 64)
    carry(dial, listen)
    assert [bytes(frame.payload) for frame in carry(listen, dial)] == [b"16384"]


def test_lost() -> None:
    dial, listen = pair()
    near, _ = opened(dial, listen)
    dial.send(near, b"abc")
    dial.ping(b"x")
    dial.lose_all(GIVEN_UP)
    assert near.lost == GIVEN_UP
    assert near.send.state is SendState.DONE
    assert not dial.streams
    assert dial.idle
    assert near in dial.changes.touched


def test_frames_of_ended_streams_and_unknown_high_types_are_ignored() -> None:
    dial, listen = pair()
    near, far = opened(dial, listen)
    for stream, its in ((near, dial), (far, listen)):
        its.finish(stream)
    carry(dial, listen)
    carry(listen, dial)
    for kind in (FrameType.DATA, FrameType.CREDIT, FrameType.STOP, FrameType.RESET):
        listen.receive(Frame(kind, near.stream_id, 7), 64)
    for kind in (0x80, 0xFF):
        listen.receive(Frame(kind, 12345, 7, b"what"), 64)


OFFENCES = {
    "type 0": Frame(0, 0),
    "unknown type": Frame(0x7F, 0),
    "never opened": Frame(FrameType.DATA, 77),
    "our own id, never opened": Frame(FrameType.CREDIT, 4),
    "session stream": Frame(FrameType.DATA, 0),
    "open of our own": Frame(FrameType.OPEN, 2, payload=wire.encode_open("", "")),
    "open again": Frame(FrameType.OPEN, 1, payload=wire.encode_open("", "")),
    "open of the session": Frame(FrameType.OPEN, 0, payload=wire.encode_open("", "")),
    "open, malformed": Frame(FrameType.OPEN, 3, payload=b"\xff"),
    "accept of its own": Frame(FrameType.ACCEPT, 1),
    "data out of sequence": Frame(FrameType.DATA, 1, 1, b"x"),
    "data beyond credit": Frame(FrameType.DATA, 1, 0, bytes(1001)),
    "credit with payload": Frame(FrameType.CREDIT, 1, 1, b"x"),
    "credit out of limits": Frame(FrameType.CREDIT, 1, 2**63),
    "reset of a wrong size": Frame(FrameType.RESET, 1, 1),
    "long reason": Frame(FrameType.RESET, 1, 0, bytes(257)),
    "long reason of a stop": Frame(FrameType.STOP, 1, 0, bytes(257)),
    "ping on a stream": Frame(FrameType.PING, 1),
    "long ping": Frame(FrameType.PING, 0, payload=bytes(65)),
    "long pong": Frame(FrameType.PONG, 0, payload=bytes(65)),
}


@pytest.mark.parametrize("frame", OFFENCES.values(), ids=OFFENCES)
def test_offences(frame: Frame) -> None:
    dial, listen = pair()
    opened(dial, listen)
    with pytest.raises(ProtocolViolation):
        listen.receive(frame, FRAME_HEADER + len(frame.payload))


def test_answers_of_the_wrong_kind() -> None:
    dial = side()
    near = dial.open("")
    with pytest.raises(ProtocolViolation, match="before its ACCEPT"):
        dial.receive(Frame(FrameType.DATA, 1, 0, b"x"), 64)
    with pytest.raises(ProtocolViolation, match="bound address"):
        dial.receive(Frame(FrameType.ACCEPT, 1, payload=bytes(257)), 64)
    dial.receive(Frame(FrameType.ACCEPT, 1), 64)
    with pytest.raises(ProtocolViolation, match="nobody waits"):
        dial.receive(Frame(FrameType.ACCEPT, near.stream_id), 64)


def test_a_flood_of_frames_that_want_answers() -> None:
    listen = side(Role.LISTEN, streams=100_000)
    listen._control.extend([Frame(FrameType.CREDIT, 2)] * (wire.MAX_CONTROL_QUEUE + 1))
    with pytest.raises(ProtocolViolation, match="flood"):
        listen.receive(Frame(FrameType.PONG, 0), 64)


def test_as_many_streams_as_are_allowed_closed_behind_a_full_ring_are_no_flood() -> None:
    dial, listen = pair(streams=wire.DEFAULT_MAX_STREAMS, credit=1)
    for one, two in ((dial, listen), (listen, dial)):
        for _ in range(wire.DEFAULT_MAX_STREAMS):
            opened(one, two)
    for stream in listen.streams.values():
        listen.finish(stream)
    while carry(listen, dial):
        pass  # from here on nothing that listen has goes out
    for stream in dial.streams.values():
        dial.send(stream, b"x")
        dial.finish(stream)
    arriving = [frame for frame in frames(dial) if frame.payload]
    for frame in arriving:
        listen.receive(Frame(FrameType.DATA, frame.stream_id, 0, b"x"), 64)
    for stream in list(listen.streams.values()):
        listen.consume(stream, len(stream.receive.take(1)), 0.0, 0.1)
        listen.stop(stream, GIVEN_UP)
    for frame in arriving:
        listen.receive(Frame(FrameType.DATA, frame.stream_id, 1, flags=wire.FLAG_FIN), 64)
    while listen.can_open:
        listen.open("")
    assert len(listen._control) > wire.MAX_CONTROL_QUEUE
    listen.receive(Frame(FrameType.PONG, 0), 64)


def test_bulk_streams_go_out_in_few_large_frames_and_a_keystroke_before_them() -> None:
    dial, listen = pair(credit=4 * PLENTY)
    near = [opened(dial, listen)[0] for _ in range(5)]
    *bulk, keys = near
    for stream in bulk:
        dial.send(stream, bytes(PLENTY))
    assert len(carry(dial, listen)) <= 8 + 1
    dial.send(keys, b"x")
    first, *others = carry(dial, listen)
    assert (first.stream_id, bytes(first.payload)) == (keys.stream_id, b"x")
    assert len(others) <= 8 + 1


def test_bulk_goes_in_a_batch_of_its_own_after_what_overtook_it() -> None:
    dial, listen = pair(credit=8 * PLENTY)
    bulk, letter, keys = (opened(dial, listen)[0] for _ in range(3))
    dial.send(bulk, bytes(4 * PLENTY))
    carry(dial, listen)
    dial.send(keys, b"x")
    dial.send(letter, bytes(1000))
    carried = carry(dial, listen)
    assert [frame.stream_id for frame in carried] == [keys.stream_id, letter.stream_id]
    assert {frame.stream_id for frame in carry(dial, listen)} == {bulk.stream_id}


def test_little_of_streams_that_are_active_for_longer_goes_with_what_overtook_them() -> None:
    dial, listen = pair(credit=8 * PLENTY)
    old, keys = (opened(dial, listen)[0] for _ in range(2))
    dial.send(old, bytes(2 * PLENTY))
    carry(dial, listen, PLENTY)
    carry(dial, listen, PLENTY - LARGE // 2)
    assert 0 < old.send.ready <= LARGE
    dial.send(keys, b"x")
    carried = carry(dial, listen)
    assert [frame.stream_id for frame in carried] == [keys.stream_id, old.stream_id]


def test_what_is_sent_before_the_answer_waits_for_it() -> None:
    """DATA before ACCEPT is a protocol error: it would end the whole session."""
    dial, listen = pair(credit=5)
    near = dial.open("target")
    carry(dial, listen)
    (far,) = listen.changes.incoming
    listen.send(far, b"early")
    listen.send(far, b" word")
    listen.finish(far)
    dial.streams[near.stream_id].receive.window.limit = 10
    listen.receive(Frame(FrameType.CREDIT, near.stream_id, 10), 0)
    assert frames(listen) == []
    listen.accept(far)
    assert kinds(carry(listen, dial)) == ["ACCEPT", "DATA"]
    assert near.receive.state is ReceiveState.FINISHED
    assert near.receive.buffered == 10


@pytest.mark.parametrize("stopped", [True, False])
def test_nothing_is_sent_before_a_refusal(stopped: bool) -> None:
    dial, listen = pair()
    near = dial.open("target")
    carry(dial, listen)
    (far,) = listen.changes.incoming
    listen.send(far, b"early")
    if stopped:
        dial.stop(near, GIVEN_UP)
        carry(dial, listen)
    else:
        listen.refuse(far, GIVEN_UP)
    assert "DATA" not in kinds(carry(listen, dial))
    assert near.refusal == GIVEN_UP
