"""When a side doubts what it sees, and what proves that it saw too little."""

from __future__ import annotations

import itertools

import attrs
import pytest

from muxfs.core import wire
from muxfs.core.doubt import (
    ACK_PATIENCE,
    BEATS,
    FRUITLESS_BEATS,
    LEAST_PATIENCE,
    MOST_PAUSE,
    ROUND_TRIPS,
    SILENCE_PATIENCE,
    Doubt,
    Place,
    Sight,
    Standing,
)
from muxfs.core.wire import (
    HEAD_LENGTH,
    RING_OFFSET,
    Birth,
    Incarnation,
    Role,
    Status,
    status_offset,
)

FIRST, SECOND = Incarnation(1, b"1" * 16), Incarnation(2, b"2" * 16)
EPOCH = 0x1122334455667788
PLACE = Place(EPOCH, position=640, offset=RING_OFFSET + 640, length=4096, most=65536)
QUIET = Standing(
    established=True,
    incarnation=FIRST,
    beat=7,
    silence=0.0,
    heartbeat=5.0,
    round_trip=0.01,
    place=PLACE,
    behind=False,
    acknowledged=100,
    awaits_ack=False,
    rewritten=0,
)
WAITING = attrs.evolve(QUIET, established=False, place=None)


def head(incarnation: Incarnation | None, *beats: int) -> bytes:
    data = bytearray(HEAD_LENGTH)
    if incarnation is not None:
        birth = wire.encode_birth(Birth(Role.LISTEN, incarnation))
        data[: len(birth)] = birth
        for beat in beats:
            status = wire.encode_status(Status(incarnation, None, beat))
            data[status_offset(beat) : status_offset(beat) + len(status)] = status
    return bytes(data)


def ring(length: int = 4096, position: int = 640, epoch: int = EPOCH, body: int = 100) -> bytes:
    parts = wire.encode_batch(epoch, position, 0, [b"U" * body], 0)
    return b"".join(map(bytes, parts)).ljust(length, b"\0")[:length]


NOTHING = bytes(4096)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ((head(FIRST, 8), NOTHING), (head(FIRST, 7), NOTHING)),
        ((head(FIRST, 8, 9), NOTHING), (head(FIRST, 8), NOTHING)),
        ((head(SECOND), NOTHING), (head(FIRST, 7), NOTHING)),
        ((head(SECOND), NOTHING), (head(None), NOTHING)),
        ((head(FIRST, 7), ring()), (head(FIRST, 7), NOTHING)),
        ((head(FIRST, 7), ring()), (head(FIRST, 8), NOTHING)),  # each place for itself
        ((head(FIRST, 7), ring(body=5000)), (head(FIRST, 7), NOTHING)),
        ((head(FIRST, 7), ring()), (head(FIRST, 7), ring()[:60] + bytes(4036))),
    ],
)
def test_what_is_more(more: tuple[bytes, bytes], less: tuple[bytes, bytes]) -> None:
    assert QUIET.see([*more]).shows_more_than(QUIET.see([*less]))


@pytest.mark.parametrize(
    "sight",
    [
        (head(FIRST, 7), NOTHING),
        (head(FIRST, 7), ring(position=704)),  # the one after the next
        (head(FIRST, 7), ring(epoch=EPOCH + 1)),
        (head(FIRST, 7), ring(body=65536)),  # more than may stand there
        (head(FIRST, 7), b""),
        (head(FIRST, 6), NOTHING),
        (head(FIRST), NOTHING),
        (head(None), NOTHING),
        (head(None), ring()),
        (b"", b""),
    ],
)
def test_what_is_not(sight: tuple[bytes, bytes]) -> None:
    assert not QUIET.see([*sight]).shows_more_than(QUIET.see([head(FIRST, 7), NOTHING]))


def test_nothing_shows_more_than_itself_nor_both_than_each_other() -> None:
    incarnations = (None, FIRST, SECOND)
    sights = [
        Sight(True, incarnation, beat, 0)
        for incarnation, beat in itertools.product(incarnations, (0, 1, 2))
    ]
    for one, other in itertools.product(sights, sights):
        assert not (one.shows_more_than(other) and other.shows_more_than(one))


def test_a_birth_block_that_is_impossible_shows_nothing() -> None:
    future = bytearray(head(SECOND, 1))
    future[8] = wire.VERSION_MAJOR + 1
    assert QUIET.see([bytes(future), NOTHING]).incarnation is None


def test_without_a_session_only_the_head_is_asked_for() -> None:
    assert WAITING.extents == [(0, HEAD_LENGTH)]
    assert QUIET.extents == [(0, HEAD_LENGTH), (RING_OFFSET + 640, 4096)]
    assert WAITING.see([head(FIRST, 3)]) == Sight(True, FIRST, 3, 0)
    assert not WAITING.see([b""]).present


def due_after(standing: Standing, most: float = 1000.0) -> float | None:
    """Seconds until there is doubt where nothing changes."""
    doubt = Doubt()
    steps = (step / 100 for step in range(round(most * 100)))
    return next((now for now in steps if doubt.reading_due(standing, now)), None)


@pytest.mark.parametrize(
    ("standing", "patience"),
    [
        (QUIET, None),
        (attrs.evolve(QUIET, silence=BEATS * 5.0), None),
        (attrs.evolve(QUIET, silence=BEATS * 5.0 + 0.1), SILENCE_PATIENCE),
        (attrs.evolve(QUIET, silence=20.0, awaits_ack=True), SILENCE_PATIENCE),
        (attrs.evolve(QUIET, silence=20.0, behind=True), LEAST_PATIENCE),
        (attrs.evolve(QUIET, behind=True), LEAST_PATIENCE),
        (attrs.evolve(QUIET, behind=True, round_trip=1.0), ROUND_TRIPS),
        (attrs.evolve(QUIET, awaits_ack=True), ACK_PATIENCE),
        (attrs.evolve(QUIET, awaits_ack=True, round_trip=1.0), ROUND_TRIPS),
        (WAITING, BEATS * 5.0),
        (attrs.evolve(WAITING, incarnation=None, beat=0), BEATS * 5.0),
    ],
)
def test_patience(standing: Standing, patience: float | None) -> None:
    assert due_after(standing, most=20) == patience


@pytest.mark.parametrize(
    "progress",
    [
        {"behind": True, "place": attrs.evolve(PLACE, position=704)},
        {"behind": False, "awaits_ack": True},
        {"behind": False},
    ],
)
def test_progress_begins_the_time_anew(progress: dict[str, object]) -> None:
    behind = attrs.evolve(QUIET, behind=True)
    doubt = Doubt()
    assert not doubt.reading_due(behind, 0.0)
    assert not doubt.reading_due(attrs.evolve(behind, **progress), 10.0)
    assert not doubt.reading_due(behind, 20.0)
    assert doubt.reading_due(behind, 20.0 + LEAST_PATIENCE)


def test_fruitless_questions_become_rare() -> None:
    doubt, now = Doubt(), 0.0
    doubt.reading_due(WAITING, now)
    pauses = []
    for _ in range(12):
        before = now
        while not doubt.reading_due(WAITING, now):
            now += 0.05
        pauses.append(now - before)
        doubt.asked(now)
    assert pauses[0] == pytest.approx(BEATS * 5, abs=0.1)
    assert all(a <= b + 0.1 for a, b in itertools.pairwise(pauses))
    assert pauses[-1] == pytest.approx(MOST_PAUSE, abs=0.1)


UNHEARD = attrs.evolve(QUIET, awaits_ack=True)


def beats_until_surer(standings: list[Standing]) -> int | None:
    doubt = Doubt()
    for number, standing in enumerate(standings):
        if doubt.writing_due(standing):
            return number
    return None


def test_beats_go_on_and_writing_again_does_not_help() -> None:
    beats = [attrs.evolve(UNHEARD, beat=7 + n, rewritten=n) for n in range(20)]
    assert beats_until_surer(beats) == FRUITLESS_BEATS


@pytest.mark.parametrize(
    "standings",
    [
        [attrs.evolve(UNHEARD, beat=7 + n) for n in range(20)],  # nothing was written again
        [attrs.evolve(UNHEARD, rewritten=n) for n in range(20)],  # its beats stand still
        [attrs.evolve(UNHEARD, beat=7 + n, rewritten=n, acknowledged=n) for n in range(20)],
        [attrs.evolve(UNHEARD, beat=7 + n, rewritten=n, awaits_ack=False) for n in range(20)],
        [attrs.evolve(WAITING, incarnation=None, beat=0)] * 20,
        [WAITING] * 20,  # the file of the dead
    ],
)
def test_no_reason_to_write_surer(standings: list[Standing]) -> None:
    assert beats_until_surer(standings) is None


def test_a_living_peer_that_never_answers_does_not_see_us() -> None:
    assert beats_until_surer([attrs.evolve(WAITING, beat=n) for n in range(20)]) == FRUITLESS_BEATS


def test_after_a_change_it_is_counted_anew() -> None:
    doubt = Doubt()
    found = []
    for n in range(20):
        standing = attrs.evolve(UNHEARD, beat=7 + n, rewritten=n)
        if doubt.writing_due(standing):
            found.append(n)
            doubt.strengthened(standing)
    assert found == [n for n in range(1, 20) if n % FRUITLESS_BEATS == 0]
