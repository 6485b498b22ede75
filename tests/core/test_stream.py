"""One stream's two halves, as state machines."""

from __future__ import annotations

import pytest

from muxfs.core.credit import ReceiveWindow, WindowBudget
from muxfs.core.stream import Ending, ReceiveHalf, ReceiveState, SendHalf, SendState, Stream
from muxfs.core.wire import MAX_SEQUENCE, Code, ProtocolViolation

BROKEN = Ending(Code.BROKEN, "the connection was reset")


def receiving(credit: int = 1000) -> ReceiveHalf:
    """Make a receiving half with that much credit."""
    return ReceiveHalf(ReceiveWindow(WindowBudget(), credit))


def sending(limit: int = 1000) -> SendHalf:
    """Make a sending half with that much credit."""
    return SendHalf(limit)


def give(half: ReceiveHalf, data: bytes, fin: bool = False, whole: int | None = None) -> None:
    """Let the next bytes arrive."""
    half.receive(half.expected, memoryview(data), fin, whole or len(data))


def emitted(half: SendHalf, most: int) -> bytes:
    """Take bytes out of a sending half."""
    pieces, length = half.emit(most)
    data = b"".join(pieces)
    assert len(data) == length
    return data


def taken(half: ReceiveHalf, most: int = 1 << 20) -> bytes:
    """Take everything that is buffered."""
    data = b""
    while half.buffered:
        data += bytes(half.take(most))
    return data


class TestSending:
    def test_pieces_go_out_in_order_and_within_credit(self) -> None:
        half = sending(7)
        half.push(b"abcde")
        half.push(b"fgh")
        assert emitted(half, 3) == b"abc"
        assert emitted(half, 100) == b"defg"
        assert (half.offset, half.queued) == (7, 1)
        assert not half.sendable
        assert half.raise_limit(8)
        assert half.sendable
        assert emitted(half, 100) == b"h"

    def test_a_limit_only_rises(self) -> None:
        half = sending(7)
        assert not half.raise_limit(7)
        assert not half.raise_limit(0)
        assert half.limit == 7
        with pytest.raises(ProtocolViolation):
            half.raise_limit(MAX_SEQUENCE + 1)

    def test_an_end_waits_for_what_is_queued(self) -> None:
        half = sending(1)
        half.push(b"ab")
        half.finish()
        assert half.state is SendState.FINISHING
        assert emitted(half, 9) == b"a"
        assert not half.sendable
        half.raise_limit(2)
        assert emitted(half, 9) == b"b"
        assert half.sendable

    def test_a_reset_drops_what_has_no_credit(self) -> None:
        half = sending(3)
        half.push(b"abcdef")
        half.reset(BROKEN)
        assert (half.state, half.queued, half.offset) == (SendState.RESETTING, 3, 0)
        assert emitted(half, 9) == b"abc"
        assert half.sendable

    def test_a_stop_drops_everything(self) -> None:
        half = sending(3)
        half.push(b"abcdef")
        half.stopped(BROKEN)
        assert (half.state, half.queued, half.ending) == (SendState.RESETTING, 0, BROKEN)
        assert half.sendable

    def test_a_stop_after_the_end_is_told_to_the_application_only(self) -> None:
        half = sending()
        half.state = SendState.DONE
        half.stopped(BROKEN)
        assert (half.state, half.ending) == (SendState.DONE, BROKEN)

    def test_nothing_changes_after_the_end(self) -> None:
        half = sending()
        half.state = SendState.DONE
        half.reset(BROKEN)
        half.finish()
        assert half.state is SendState.DONE
        assert half.ending is None

    def test_small_pieces_are_joined(self) -> None:
        half = sending()
        for _ in range(10):
            half.push(b"x")
        pieces, length = half.emit(100)
        assert (len(pieces), length) == (1, 10)

    def test_room(self) -> None:
        half = sending()
        before = half.room
        half.push(b"abc")
        assert half.room == before - 3
        half.clear()
        assert half.room == before


class TestReceiving:
    def test_bytes_arrive_in_order(self) -> None:
        half = receiving()
        assert not half.readable
        give(half, b"abc")
        give(half, b"de")
        assert half.readable
        assert bytes(half.take(2)) == b"ab"
        assert taken(half) == b"cde"
        assert half.buffered == 0

    @pytest.mark.parametrize("sequence", [0, 2, 4])
    def test_gaps_and_repetitions_are_errors(self, sequence: int) -> None:
        half = receiving()
        give(half, b"abc")
        with pytest.raises(ProtocolViolation):
            half.receive(sequence, memoryview(b"x"), False, 1)

    def test_credit_is_the_limit(self) -> None:
        half = receiving(3)
        give(half, b"abc")
        with pytest.raises(ProtocolViolation, match="credit"):
            give(half, b"d")

    def test_an_end_is_clean_after_all_bytes(self) -> None:
        half = receiving()
        give(half, b"abc", fin=True)
        assert half.state is ReceiveState.FINISHED
        assert taken(half) == b"abc"
        with pytest.raises(ProtocolViolation, match="end"):
            give(half, b"d")

    def test_a_reset_delivers_what_came_before(self) -> None:
        half = receiving()
        give(half, b"abc")
        half.reset(BROKEN)
        assert (half.state, half.ending, half.buffered) == (ReceiveState.RESET, BROKEN, 3)

    def test_after_a_stop_data_is_dropped_but_counted(self) -> None:
        half = receiving(4)
        give(half, b"ab")
        half.stop()
        assert half.buffered == 0
        give(half, b"cd", fin=True)
        assert (half.buffered, half.state, half.peer_ended) == (0, ReceiveState.STOPPED, True)

    def test_large_payloads_are_not_copied(self) -> None:
        half = receiving(5000)
        data = bytes(5000)
        give(half, data, whole=10_000)
        piece = half.take(5000)
        assert isinstance(piece, memoryview)
        assert piece.obj is data

    def test_a_small_payload_does_not_pin_all_that_was_read(self) -> None:
        half = receiving()
        data = bytes(1 << 20)
        half.receive(0, memoryview(data)[:900], False, len(data))
        piece = half.take(900)
        assert not isinstance(piece, memoryview)

    def test_small_payloads_are_gathered(self) -> None:
        half = receiving(40_000)
        for number in range(40_000):
            # a sealed batch keeps nothing but its frames, and still one object for each
            give(half, bytes([number % 251]), whole=4096 if number % 2 else 1)
        assert len(half._queue) == 3
        assert bytes(half.take(1)) == b"\0"
        assert half.buffered == 39_999
        assert taken(half) == bytes(number % 251 for number in range(1, 40_000))

    def test_what_was_taken_does_not_change_any_more(self) -> None:
        half = receiving()
        give(half, b"ab", whole=4096)
        head = half.take(1)
        give(half, b"c", whole=4096)
        assert bytes(head) == b"a"
        tail = half.take(1)
        give(half, b"d", whole=4096)
        assert bytes(tail) == b"b"
        assert taken(half) == b"cd"


class TestWhole:
    def stream(self) -> Stream:
        return Stream(1, sending(), receiving(), opened_here=True)

    def test_it_has_ended_when_both_directions_have(self) -> None:
        stream = self.stream()
        stream.send.state = SendState.DONE
        assert not stream.ended
        give(stream.receive, b"", fin=True)
        assert stream.ended

    def test_a_lost_session_breaks_what_is_open(self) -> None:
        stream = self.stream()
        stream.send.push(b"abc")
        give(stream.receive, b"def")
        stream.lose(BROKEN)
        assert stream.lost is BROKEN
        assert (stream.send.queued, stream.send.ending) == (0, BROKEN)
        assert (stream.receive.state, stream.receive.buffered) == (ReceiveState.RESET, 0)

    def test_a_direction_that_arrived_whole_survives_the_session(self) -> None:
        stream = self.stream()
        give(stream.receive, b"def", fin=True)
        stream.lose(BROKEN)
        assert stream.receive.state is ReceiveState.FINISHED
        assert taken(stream.receive) == b"def"
