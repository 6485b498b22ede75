"""The peer's ring: what is there, what is not there yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.core import wire
from muxfs.core.flight import Flight
from muxfs.core.inbound import (
    MISSES,
    MOST_READS,
    PIECE,
    WORTH_GUESSING,
    Piece,
    ReadTimes,
    ReceiveRing,
)
from muxfs.core.outbound import SendRing
from muxfs.core.pacing import Pacer
from muxfs.core.wire import PAGE, RING_OFFSET

CAPACITY = wire.MIN_CAPACITY
EPOCH = 7


class Ring:
    """Both ends of a ring, and the bytes between them."""

    def __init__(
        self,
        speculate: bool = False,
        max_batch: int = wire.MIN_MAX_BATCH,
        capacity: int = CAPACITY,
    ) -> None:
        self.out = SendRing(EPOCH, RING_OFFSET, capacity, wire.MIN_MAX_BATCH, Pacer())
        self.inbound = ReceiveRing(EPOCH, RING_OFFSET, capacity, max_batch, speculate=speculate)
        self.file = bytearray(RING_OFFSET + capacity)
        self.lengths: list[int] = []
        self.seen: dict[Piece, bytes] = {}

    def write(self, length: int, torn: bool = False) -> bytes:
        """Write a batch with one frame that has `length` bytes in all."""
        payload = bytes(range(256)) * (length // 256 + 1)
        frame = wire.encode_frame(wire.Frame(0x80, 0, payload=payload[: length - 20]))
        self.put(*self.out.encode(0, [frame], 1), torn=torn)
        return frame

    def put(self, buffers: list[wire.Buffer], stride: int, torn: bool = False) -> None:
        """Place an encoded batch, and all but its last byte, if torn."""
        batch = self.out.place(buffers, stride, 0.0, True)
        data = b"".join(buffers)
        at = self.out.file_offset(batch)
        self.file[at : at + len(data)] = data
        if torn:
            self.file[at + len(data) - 1 - 40] ^= 1

    def read(self) -> list[bytes]:
        """Read once; return the bodies of the batches that were new."""
        return self.end(self.begin(self.inbound.first_piece()))

    def begin(self, piece: Piece) -> Piece:
        """See what stands in the file now."""
        offset = self.inbound.file_offset(piece.position)
        self.seen[piece] = bytes(self.file[offset : offset + piece.length])
        self.lengths.append(piece.length)
        return piece

    def end(self, piece: Piece) -> list[bytes]:
        """Give what was seen to the reader; return the bodies of the batches that were new."""
        return [bytes(batch.body) for batch in self.inbound.receive(piece, self.seen.pop(piece))]

    def read_all(self) -> list[bytes]:
        """Read until there is nothing more."""
        found: list[bytes] = []
        while True:
            new = self.read()
            while piece := self.inbound.next_piece():
                new += self.end(self.begin(piece))
            if not new:
                return found
            found += [body for body in new if body]


def test_what_was_read_with_the_place_of_the_next_batch_shows_whether_it_is_there() -> None:
    ring = Ring()
    assert not ring.inbound.caught_up
    ring.read()
    assert ring.inbound.caught_up
    ring.write(100)
    ring.read()
    assert ring.inbound.caught_up
    ring.write(PAGE - wire.BATCH_HEADER)  # the place of the next one was not read
    ring.read()
    assert not ring.inbound.caught_up
    ring.read()
    assert ring.inbound.caught_up
    ring.write(300, torn=True)  # it is on its way
    ring.read()
    assert not ring.inbound.caught_up


def test_nothing_is_there_yet() -> None:
    ring = Ring()
    assert ring.read() == []
    assert ring.lengths == [PAGE]


def test_batches_come_in_order() -> None:
    ring = Ring()
    frames = [ring.write(100), ring.write(200), ring.write(300)]
    assert ring.read() == frames
    assert ring.inbound.position == ring.out.position


def test_a_batch_that_is_longer_than_the_probe() -> None:
    ring = Ring()
    frame = ring.write(50_000)
    assert ring.read() == []
    rest = ring.inbound.next_piece()
    assert rest is not None
    assert ring.end(ring.begin(rest)) == [frame]
    assert ring.inbound.next_piece() is None


def test_a_torn_batch_is_looked_at_again() -> None:
    ring = Ring()
    frame = ring.write(300, torn=True)
    assert ring.read() == []
    assert ring.inbound.torn == 1
    assert not ring.inbound.incomplete
    ring.file[RING_OFFSET : RING_OFFSET + 348] = b"".join(ring.out.encode(0, [frame], 1)[0])[:348]
    ring.out.rewrite_all()
    again = ring.out.next_rewrite(Flight())
    assert again is not None
    ring.file[RING_OFFSET : RING_OFFSET + again.stride] = b"".join(again.buffers)
    assert ring.read() == [frame]


def test_what_an_earlier_lap_or_epoch_left_is_not_there() -> None:
    ring = Ring()
    ring.write(100)
    other = ReceiveRing(EPOCH + 1, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH)
    later = ReceiveRing(EPOCH, RING_OFFSET, CAPACITY, wire.MIN_MAX_BATCH, position=CAPACITY)
    for reader in (other, later):
        piece = reader.first_piece()
        offset = reader.file_offset(piece.position)
        assert list(reader.receive(piece, bytes(ring.file[offset : offset + PAGE]))) == []
        assert reader.position == later.position * (reader is later)


def test_a_pad_leads_to_the_start() -> None:
    ring = Ring()
    while CAPACITY - ring.out.position > 60_000:
        ring.write(60_000)
        ring.read_all()
        ring.out.acknowledge(ring.inbound.position, 0.0)
    ring.put(*ring.out.encode_pad(0))
    ring.out.position = CAPACITY
    frame = ring.write(1000)
    assert ring.read_all() == [frame]
    assert ring.inbound.position == CAPACITY + wire.align(1048)


def test_nothing_longer_than_the_limit_or_across_the_end() -> None:
    ring = Ring(max_batch=1000)
    ring.write(2000)
    assert ring.read() == []
    assert not ring.inbound.incomplete
    across = wire.encode_batch(EPOCH, CAPACITY - 64, 0, [bytes(100)], 0)
    reader = ReceiveRing(EPOCH, RING_OFFSET, CAPACITY, 1000, position=CAPACITY - 64)
    piece = reader.first_piece()
    assert (reader.file_offset(piece.position), piece.length) == (RING_OFFSET + CAPACITY - 64, 64)
    assert list(reader.receive(piece, b"".join(across))) == []


def test_a_file_that_is_too_short_is_not_read_hot() -> None:
    ring = Ring()
    ring.write(50_000)
    del ring.file[RING_OFFSET + 10_000 :]
    assert ring.read() == []
    assert ring.read() == []
    assert not ring.inbound.incomplete


def test_reads_grow_where_a_read_is_a_round_trip() -> None:
    ring = Ring(speculate=True)
    for _ in range(40):
        ring.write(1000)
    ring.read_all()
    assert PAGE < max(ring.lengths) <= PIECE
    for _ in range(MISSES + 1):
        ring.read()
    ring.lengths.clear()
    ring.read()
    assert ring.lengths == [PAGE]


def test_a_wrong_guess_asks_for_no_more_than_came_last_time() -> None:
    ring = Ring(speculate=True)
    ring.write(60_000)
    ring.read_all()
    ring.write(10_000)
    ring.read_all()
    ring.lengths.clear()
    ring.read()
    assert max(ring.lengths) <= 10_048 + 2 * PAGE


class Slow(ReadTimes):
    """Of a link that moves so many bytes in a round trip."""

    worth_guessing = 100_000


@pytest.mark.parametrize(
    ("batches", "length", "asked"),
    [(1, 60_000, 60_048), (1, 110_000, PAGE), (3, 60_000, 100_000), (2, 110_000, PAGE)],
)
def test_of_what_needs_a_second_read_anyway_only_the_header_is_looked_for(
    batches: int, length: int, asked: int
) -> None:
    ring = Ring(speculate=True, capacity=4 * PIECE)
    ring.inbound.times = Slow()
    for _ in range(batches):
        ring.write(length)
    ring.read_all()
    ring.lengths.clear()
    ring.read()
    assert asked <= ring.lengths[0] <= asked + 2 * PAGE


class Far(ReadTimes):
    """Of a link that moves much in a round trip."""

    worth_guessing = WORTH_GUESSING


class Wide(Ring):
    """A ring of many pieces, full of batches that do not end where pieces do."""

    def __init__(self, length: int = 60_000) -> None:
        super().__init__(speculate=True, capacity=16 * PIECE)
        self.inbound.times = Far()
        self.inbound._guess = self.inbound._wanted = 4 * PIECE
        self.frames = [self.write(length) for _ in range(15 * PIECE // length)]

    def begin_all(self) -> list[Piece]:
        """See all that is worth reading now."""
        pieces = [self.begin(self.inbound.first_piece())]
        while piece := self.inbound.next_piece():
            pieces.append(self.begin(piece))
        return pieces


def test_pieces_are_next_to_each_other_and_end_in_any_order() -> None:
    ring = Wide()
    pieces = ring.begin_all()
    assert [piece.length for piece in pieces] == 4 * [PIECE]
    assert [piece.position for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    found: list[bytes] = []
    for number in (2, 1, 3, 0):
        assert found == []
        found += ring.end(pieces[number])
    assert found == ring.frames[: len(found)]
    assert ring.inbound.position > 3.9 * PIECE


def test_more_is_asked_for_while_all_of_it_is_there() -> None:
    ring = Wide()
    found: list[bytes] = []
    under_way = ring.begin_all()
    while under_way:
        found += ring.end(under_way.pop(0))
        while piece := ring.inbound.next_piece():
            under_way.append(ring.begin(piece))
        assert len(under_way) <= MOST_READS
    assert found == ring.frames
    assert max(ring.lengths) == PIECE


def test_what_is_under_way_behind_a_gap_does_not_count() -> None:
    ring = Wide()
    hidden = ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE]
    ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE] = bytes(PIECE)
    pieces = ring.begin_all()
    found = ring.end(pieces[0])
    assert ring.end(pieces[1]) == []
    ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE] = hidden
    found += ring.read_all()
    assert ring.end(pieces[2]) == ring.end(pieces[3]) == []
    assert found == ring.frames


def test_a_gap_is_looked_at_again_while_what_is_behind_it_is_under_way() -> None:
    ring = Wide()
    hidden = ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE]
    ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE] = bytes(PIECE)
    pieces = ring.begin_all()
    found = ring.end(pieces[0]) + ring.end(pieces[1])
    ring.file[RING_OFFSET + PIECE : RING_OFFSET + 2 * PIECE] = hidden
    under_way = pieces[2:]
    while piece := ring.inbound.next_piece():
        under_way.append(ring.begin(piece))
    again = under_way[2]
    assert again.position == ring.inbound.position
    assert len(under_way) <= MOST_READS
    found += ring.end(again)
    assert len(found) > PIECE // 60_000 + 1
    for piece in pieces[2:]:
        assert ring.end(piece) == []
    for piece in under_way[3:]:
        found += ring.end(piece)
    found += ring.read_all()
    assert found == ring.frames


def test_a_poll_ends_when_all_has_come_that_is_behind_a_gap() -> None:
    ring = Wide()
    ring.file[RING_OFFSET:] = bytes(len(ring.file) - RING_OFFSET)
    under_way = ring.begin_all()
    for _ in range(20):  # all served in the order in which they were asked for
        if not under_way:
            break
        assert ring.end(under_way.pop(0)) == []
        while under_way and (piece := ring.inbound.next_piece()):
            under_way.append(ring.begin(piece))
            assert len(under_way) <= MOST_READS
        if len(under_way) == 1:
            assert ring.lengths[-1] == PAGE  # nothing is guessed any more
            break
    assert ring.end(under_way.pop()) == []
    assert ring.inbound.next_piece() is None


def test_one_read_that_takes_long_does_not_have_the_gap_looked_at_all_the_time() -> None:
    ring = Wide()
    ring.file[RING_OFFSET:] = bytes(len(ring.file) - RING_OFFSET)
    *pieces, stuck = ring.begin_all()
    looks = 0
    while pieces and looks < 100:
        assert ring.end(pieces.pop(0)) == []
        while piece := ring.inbound.next_piece():
            pieces.append(ring.begin(piece))
            looks += 1
    assert 0 < looks <= 4 * MOST_READS
    assert ring.end(stuck) == []
    assert ring.inbound.next_piece() is None


def test_guessing_ends_with_the_polls_that_find_nothing() -> None:
    ring = Wide()
    ring.read_all()
    ring.inbound._guess = 4 * PIECE  # as where a round trip is long, and the link is fast
    for _ in range(MISSES + 1):
        ring.read()
    ring.lengths.clear()
    ring.begin_all()
    assert ring.lengths == [PAGE]


def test_marker() -> None:
    ring = Ring()
    ring.write(100)
    at, marker = ring.inbound.marker(ring.inbound.position)
    assert ring.file[at : at + len(marker)] == marker


class Chain(Ring):
    """A ring that is read where a round trip is short, with batches that are long."""

    def __init__(self) -> None:
        super().__init__(speculate=True, max_batch=PIECE, capacity=8 * PIECE)

    def next(self) -> Piece:
        """See what is worth reading beside what is under way; there must be something."""
        piece = self.inbound.next_piece()
        assert piece is not None
        return self.begin(piece)


def test_beside_a_long_batch_the_header_of_the_next_is_looked_for() -> None:
    ring = Chain()
    frames = [ring.write(length) for length in (300_000, 400_000, 500_000)]
    assert ring.read() == []
    found, under_way = [], []
    for _ in frames:
        batch, look = ring.next(), ring.next()
        assert not batch.looks
        assert look.looks
        assert ring.inbound.next_piece() is None  # what comes after it is not known
        assert ring.end(look) == []
        under_way.append(batch)
    assert ring.inbound.next_piece() is None  # the last look was in vain
    for batch in reversed(under_way):
        assert found == []
        found += ring.end(batch)
    assert found == frames
    assert sum(ring.lengths) == ring.out.position + 4 * PAGE


def test_a_look_in_vain_is_repeated_once_a_batch_has_come() -> None:
    ring = Chain()
    frames = [ring.write(300_000), ring.write(300_000)]
    ring.read()
    first, look = ring.next(), ring.next()
    ring.end(look)
    second, look = ring.next(), ring.next()
    ring.end(look)
    assert ring.inbound.next_piece() is None
    found = ring.end(first)
    frames.append(ring.write(300_000))
    ring.end(ring.next())
    third = ring.next()
    assert third.position == second.end
    assert found + ring.end(second) + ring.end(third) == frames


def test_short_batches_in_a_look_are_taken_in_their_turn() -> None:
    ring = Chain()
    frames = [ring.write(300_000), ring.write(100), ring.write(200)]
    ring.read()
    batch, look = ring.next(), ring.next()
    assert ring.end(look) == []
    assert ring.inbound.next_piece() is None  # what comes after them is seen with the next poll
    assert ring.end(batch) == frames
    assert ring.inbound.caught_up


def test_no_more_is_read_of_a_ring_than_its_batches() -> None:
    ring = Chain()
    ring.out.position = ring.out.acknowledged = ring.inbound.position = 7 * PIECE
    frames = [ring.write(300_000)]
    ring.read()
    batch = ring.next()
    ring.put(*ring.out.encode_pad(0))
    frames.append(ring.write(400_000))
    ring.end(ring.next())
    ring.end(ring.next())
    last = ring.next()
    assert last.position == 8 * PIECE
    found = [body for body in ring.end(batch) + ring.end(last) if body]
    assert found == frames
    assert ring.inbound.position == ring.out.position


def test_a_batch_whose_header_came_before_the_rest_is_read_again() -> None:
    ring = Chain()
    frames = [ring.write(300_000)]
    ring.read()
    first, look = ring.next(), ring.next()
    at = ring.out.position
    frames.append(ring.write(299_984, torn=True))
    whole = b"".join(wire.encode_batch(EPOCH, at, 0, [frames[1]], 1))
    ring.end(ring.begin(look))  # it saw the header
    second = ring.next()
    assert ring.end(second) == []
    assert ring.end(first) == frames[:1]
    assert ring.inbound.torn == 1
    ring.file[RING_OFFSET + at : RING_OFFSET + at + len(whole)] = whole
    assert ring.read_all() == frames[1:]


@pytest.mark.parametrize("times", [ReadTimes, Far])
@given(st.data())
def test_in_whatever_order_it_comes_and_is_read_all_is_found_once(
    times: type[ReadTimes], data: st.DataObject
) -> None:
    ring = Chain()
    ring.inbound.times = times()
    frames, found = [], []
    under_way: list[Piece] = []
    length = st.sampled_from([100, 3000, 30_000, 100_000, 300_000, 700_000])
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["write", "begin", "begin", "end", "end"]))
        if step == "write" and ring.inbound.position + 6 * PIECE > ring.out.position:
            room = ring.out.capacity - ring.out.position % ring.out.capacity
            if room <= PIECE:
                ring.put(*ring.out.encode_pad(0))
            frames.append(ring.write(data.draw(length)))
        elif step == "begin":
            piece = ring.inbound.next_piece()
            if piece is None and not under_way:
                piece = ring.inbound.first_piece()
            if piece is not None:
                under_way.append(ring.begin(piece))
        elif step == "end" and under_way:
            piece = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if data.draw(st.booleans()):
                ring.begin(piece)  # it was served late
            found += ring.end(piece)
    found += ring.read_all()
    assert [body for body in found if body] == frames


def test_a_poll_ends_though_more_and_more_comes() -> None:
    ring = Chain()
    frames = [ring.write(300_000), ring.write(300_000)]
    assert ring.read() == []
    first = ring.next()
    assert ring.inbound.next_piece(fresh=False) is None
    assert ring.end(first) == frames[:1]
    assert ring.inbound.next_piece(fresh=False) is None
    short = Ring()
    short.write(50_000)
    short.write(50_000)
    assert short.read() == []
    rest = short.inbound.next_piece(fresh=False)
    assert rest is not None
    assert len(short.end(short.begin(rest))) == 1
    assert short.inbound.next_piece(fresh=False) is None


def test_nothing_is_read_for_a_poll_that_is_to_end_after_a_pad() -> None:
    ring = Ring()
    ring.out.position = ring.out.acknowledged = ring.inbound.position = CAPACITY - 4 * PAGE
    frames = [ring.write(2 * PAGE)]
    ring.put(*ring.out.encode_pad(0))
    assert ring.read() == []
    rest = ring.inbound.next_piece()
    assert rest is not None
    assert ring.end(ring.begin(rest)) == [*frames, b""]
    assert ring.inbound.next_piece(fresh=False) is None
    frames = [ring.write(100)]
    assert ring.read_all() == frames


def test_what_is_worth_guessing() -> None:
    times = ReadTimes()
    assert times.worth_guessing < WORTH_GUESSING
    times.add(PAGE, 0.5, 0.0, waited=True)  # it waited for news
    times.add(wire.HEAD_LENGTH, 0.001, 0.1)
    assert times.longest == 0.001
    times.add(0, 0.00001, 0.15)  # there is no such file
    times.add(PIECE, 0.011, 0.2)
    assert times.worth_guessing == pytest.approx(PIECE / 10, abs=PAGE)
    assert times.longest == 0.011
    slow = ReadTimes()
    slow.add(PAGE, 0.012, 0.0)  # behind bulk
    slow.add(PIECE, 0.012, 0.1)
    assert slow.worth_guessing == 8 * PIECE
