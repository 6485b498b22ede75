"""Who sends next."""

from __future__ import annotations

from collections import Counter

from muxfs.core.credit import ReceiveWindow, WindowBudget
from muxfs.core.schedule import QUANTUM, Scheduler
from muxfs.core.stream import ReceiveHalf, SendHalf, Stream

ENOUGH = 100 * QUANTUM


def stream(number: int, queued: int = ENOUGH) -> Stream:
    """Make a stream with something to send, and credit for all of it."""
    made = Stream(number, SendHalf(1 << 40), ReceiveHalf(ReceiveWindow(WindowBudget(), 1000)), True)
    if queued:
        made.send.push(bytes(queued))
    return made


def serve(scheduler: Scheduler, most: int) -> tuple[int, int]:
    """Let the next stream send; return who it was, and how much."""
    turn = scheduler.next()
    assert turn is not None
    _, length = turn.send.emit(min(most, scheduler.turn(turn)))
    scheduler.spend(turn, length)
    return turn.stream_id, length


def test_nobody() -> None:
    scheduler = Scheduler()
    assert scheduler.next() is None
    scheduler.activate(stream(1, 0))
    assert scheduler.next() is None


def test_a_lone_stream_is_not_interrupted() -> None:
    scheduler = Scheduler()
    scheduler.activate(stream(1))
    assert serve(scheduler, ENOUGH) == (1, ENOUGH)


def test_active_streams_share_alike() -> None:
    scheduler = Scheduler()
    for number in range(1, 6):
        scheduler.activate(stream(number))
    sent: Counter[int] = Counter()
    for _ in range(50):
        number, length = serve(scheduler, ENOUGH)
        sent[number] += length
    assert len(sent) == 5
    assert max(sent.values()) - min(sent.values()) <= QUANTUM


def test_a_new_stream_overtakes_once() -> None:
    scheduler = Scheduler()
    for number in (1, 2):
        scheduler.activate(stream(number))
    assert [serve(scheduler, ENOUGH)[0] for _ in range(3)] == [1, 2, 1]
    scheduler.activate(stream(3))
    assert [serve(scheduler, ENOUGH)[0] for _ in range(4)] == [3, 2, 3, 1]


def test_a_stream_that_comes_and_goes_does_not_starve_the_others() -> None:
    scheduler = Scheduler()
    bulk, chatty = stream(1), stream(2, 0)
    scheduler.activate(bulk)
    serve(scheduler, 100)
    sent: Counter[int] = Counter()
    for _ in range(200):
        chatty.send.push(bytes(QUANTUM))
        scheduler.activate(chatty)
        number, length = serve(scheduler, QUANTUM)
        sent[number] += length
    assert sent[1] > 0.4 * sum(sent.values())


def test_activating_twice_is_no_harm() -> None:
    scheduler = Scheduler()
    one, two = stream(1), stream(2)
    for each in (one, two, one, two, one):
        scheduler.activate(each)
    assert [serve(scheduler, ENOUGH)[0] for _ in range(4)] == [1, 2, 1, 2]


def test_a_stream_without_credit_leaves_and_comes_back() -> None:
    scheduler = Scheduler()
    one = stream(1)
    one.send.limit = 0
    scheduler.activate(one)
    assert scheduler.next() is None
    one.send.raise_limit(10)
    scheduler.activate(one)
    assert serve(scheduler, ENOUGH) == (1, 10)


def test_cleared() -> None:
    scheduler = Scheduler()
    one = stream(1)
    scheduler.activate(one)
    scheduler.clear()
    assert scheduler.next() is None
    scheduler.activate(one)
    assert scheduler.next() is one
