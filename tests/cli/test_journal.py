"""What is told of what others can make happen at will."""

from __future__ import annotations

import io
import json
from typing import Any

import trio
from trio.testing import MockClock

from muxfs.cli.journal import Journal
from muxfs.cli.output import NORMAL, VERBOSE, Output
from muxfs.cli.sparing import MOST, PERIOD
from muxfs.core.wire import Code
from muxfs.forwards.events import Event, Lent, Refused

REFUSED = Refused("127.0.0.1:1", "db:1", Code.PROHIBITED, "no")


def told(journal: Journal) -> list[dict[str, Any]]:
    """Return what was told since the last time."""
    stream = journal.output.events_to
    assert isinstance(stream, io.StringIO)
    lines = stream.getvalue().splitlines()
    stream.seek(0)
    stream.truncate()
    return [json.loads(line) for line in lines]


def journal(level: int = NORMAL) -> Journal:
    return Journal(Output(json=True, level=level, events_to=io.StringIO()))


def happen(journal: Journal, event: Event, count: int) -> list[str]:
    for _ in range(count):
        journal.happened(event)
    return [event["event"] for event in told(journal)]


async def test_a_flood_of_refusals_does_not_fill_the_log(autojump_clock: MockClock) -> None:
    log = journal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.tell_rest)
        assert happen(log, REFUSED, 5000) == ["refused"] * MOST
        assert happen(log, Lent("[::1]:1"), 3) == ["lent"] * 3  # each kind by itself
        await trio.sleep(PERIOD + 1)
        assert told(log) == [{"event": "more", "of": "refused", "count": 5000 - MOST}]
        await trio.sleep(10 * PERIOD)
        assert told(log) == []
        assert happen(log, REFUSED, MOST) == ["refused"] * MOST
        await trio.sleep(PERIOD + 1)
        assert told(log) == []
        assert happen(log, REFUSED, MOST + 7) == ["refused"] * MOST
        log.closed("SHUTDOWN", "", 0)
        assert [event.get("count") for event in told(log)] == [7, None]
        nursery.cancel_scope.cancel()


async def test_who_wants_to_know_each_is_told_each(autojump_clock: MockClock) -> None:
    assert happen(journal(VERBOSE), REFUSED, 1000) == ["refused"] * 1000


async def test_in_words(autojump_clock: MockClock) -> None:
    words = io.StringIO()
    log = Journal(Output(words_to=words))
    for _ in range(MOST + 2):
        log.happened(REFUSED)
    log.closed("SHUTDOWN", "", 0)
    *_, more, ended = words.getvalue().splitlines()
    assert more == "  and 2 more refused, within a minute (-v tells each)"
    assert ended == "  ended"
