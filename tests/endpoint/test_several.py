"""Several listening ends and one that dials, in simulated time."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

from muxfs import AlreadyRunning, Session, SessionConfig, occupancy
from muxfs.core import wire
from muxfs.core.link import PreviousLife
from muxfs.core.proof import Blocks
from muxfs.core.wire import Code
from muxfs.endpoint import listening
from muxfs.endpoint.dialling import QUIET_LOOK, UNUSED
from muxfs.endpoint.endpoint import Endpoint, EndpointConfig, open_endpoint
from muxfs.endpoint.events import SessionChange, SessionMoved
from muxfs.errors import SessionError, StreamRefused
from muxfs.info import Established, Lost
from muxfs.storage.base import Storage
from tests.endpoint.tunnel import MemorySlots, MemoryTunnel
from tests.forwards.harness import Log

Role = Literal["listen", "dial"]
CONFIG = SessionConfig(capacity=1 << 20)


@attrs.define
class End:
    """A running end."""

    endpoint: Endpoint
    slots: MemorySlots
    log: Log
    _scope: trio.CancelScope
    _ended: trio.Event

    @property
    def numbers(self) -> list[int]:
        """Its open sessions."""
        return list(self.endpoint.sessions.by_number)

    @property
    def session(self) -> Session:
        """The only session of a listening end."""
        (session,) = self.endpoint.sessions.by_number.values()
        return session

    def established(self) -> list[int]:
        """Return the sessions that stand."""
        return [n for n, s in self.endpoint.sessions.by_number.items() if s.established]

    async def leave(self) -> None:
        """End in good order."""
        self._scope.cancel()
        await self._ended.wait()

    async def kill(self) -> None:
        """End without a word."""

        async def hang(*_: object) -> None:
            await trio.sleep_forever()

        for _, storage in self.slots.storages:
            storage.writer.write = hang  # type: ignore[method-assign]
        await self.leave()


async def start(nursery: trio.Nursery, tunnel: MemoryTunnel, role: Role, **options: Any) -> End:
    """Run one end in the nursery."""

    async def run(*, task_status: trio.TaskStatus[End]) -> None:
        slots, log, ended = tunnel.slots(role), Log(), trio.Event()
        config = EndpointConfig(role=role, slots=slots, **{"session": CONFIG, **options})
        with trio.CancelScope() as scope:
            async with open_endpoint(config, log) as endpoint:
                await endpoint.start()
                task_status.started(End(endpoint, slots, log, scope, ended))
                await trio.sleep_forever()
        ended.set()

    end: End = await nursery.start(run)
    return end


@asynccontextmanager
async def playing() -> AsyncIterator[tuple[trio.Nursery, MemoryTunnel]]:
    async with trio.open_nursery() as nursery:
        yield nursery, MemoryTunnel()
        nursery.cancel_scope.cancel()


async def check(listen: End, dial: End, number: int) -> None:
    """See that streams go through that session, in both directions."""
    near, far = listen.session, dial.endpoint.sessions.by_number[number]
    for one, other in ((near, far), (far, near)):
        stream = one.start_stream(f"unix:/no/such/{number}")
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_accepted()
        assert caught.value.code is Code.PROHIBITED
        assert other.stats().opened


@pytest.mark.parametrize("first", ["listen", "dial"])
async def test_listeners_take_sessions_in_turn(autojump_clock: MockClock, first: Role) -> None:
    async with playing() as (nursery, tunnel):
        if first == "dial":
            dial = await start(nursery, tunnel, "dial")
            await trio.sleep(1000)
        listens = []
        for number in range(3):
            listens.append(await start(nursery, tunnel, "listen"))
            assert listens[-1].numbers == [number]
            if first == "dial":
                with trio.fail_after(QUIET_LOOK + 1.5):
                    await listens[-1].session.wait_established()
        if first == "listen":
            await trio.sleep(1000)
            dial = await start(nursery, tunnel, "dial")
            with trio.fail_after(2):
                for listen in listens:
                    await listen.session.wait_established()
        await trio.sleep(1)
        assert dial.established() == [0, 1, 2]
        for number, listen in enumerate(listens):
            await check(listen, dial, number)
        assert 3 not in dial.numbers
        await trio.sleep(1000)
        assert dial.numbers == [0, 1, 2]
        assert "dial.mbx" not in tunnel.files[3].files  # made only when it is used


async def test_all_sessions_in_use(autojump_clock: MockClock) -> None:
    async with playing() as (nursery, tunnel):
        await start(nursery, tunnel, "dial", most_sessions=2)
        for _ in range(2):
            await start(nursery, tunnel, "listen", most_sessions=2)
        with pytest.raises(AlreadyRunning, match=r"all 2 sessions .* in use .*--sessions"):
            async with open_endpoint(
                EndpointConfig("listen", tunnel.slots("listen"), CONFIG, 2), Log()
            ) as third:
                await third.start()


async def test_a_session_whose_listener_ended_is_closed_and_taken_again(
    autojump_clock: MockClock,
) -> None:
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        listens = [await start(nursery, tunnel, "listen") for _ in range(3)]
        await trio.sleep(5)
        await listens[1].leave()
        await trio.sleep(UNUSED + 5)
        assert dial.numbers == [0, 2]
        again = await start(nursery, tunnel, "listen")
        assert again.numbers == [1]
        with trio.fail_after(QUIET_LOOK + 1):
            await again.session.wait_established()
        await check(again, dial, 1)
        for number in (0, 2):
            await check(listens[number], dial, number)
            assert not any(
                isinstance(event, SessionChange) and isinstance(event.change, Lost)
                for event in listens[number].log.events
            )


async def test_sessions_of_killed_listeners_are_used_when_no_other_is_free(
    autojump_clock: MockClock,
) -> None:
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        listens = [await start(nursery, tunnel, "listen") for _ in range(4)]
        await trio.sleep(5)
        await listens[1].kill()
        await trio.sleep(200)
        assert dial.numbers == [0, 2, 3]
        again = await start(nursery, tunnel, "listen")
        assert again.numbers == [1]
        with trio.fail_after(QUIET_LOOK + 1):
            await again.session.wait_established()
        await check(again, dial, 1)


async def test_a_listener_that_was_away_for_long_is_found_again(autojump_clock: MockClock) -> None:
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        await start(nursery, tunnel, "listen")
        listen = await start(nursery, tunnel, "listen")
        await trio.sleep(5)
        tunnel.files[1].stop()
        await trio.sleep(500)
        tunnel.files[1].resume()
        await trio.sleep(200)
        await check(listen, dial, 1)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("used", [False, True])
async def test_listeners_that_start_at_the_same_instant(
    autojump_clock: MockClock, count: int, used: bool
) -> None:
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        if used:
            for listen in [await start(nursery, tunnel, "listen") for _ in range(4)]:
                await listen.leave()
            await trio.sleep(100)
        listens: list[End] = []

        async def begin() -> None:
            listens.append(await start(nursery, tunnel, "listen"))

        async with trio.open_nursery() as starting:
            for _ in range(count):
                starting.start_soon(begin)
        await trio.sleep(30)
        numbers = sorted(number for listen in listens for number in listen.numbers)
        assert numbers == list(range(count))
        moves = [e for listen in listens for e in listen.log.events if isinstance(e, SessionMoved)]
        assert len(moves) >= count - 1
        for listen in listens:
            (number,) = listen.numbers
            await check(listen, dial, number)


@pytest.mark.parametrize("seconds", [0.5 * listening.PATIENCE, 2 * listening.PATIENCE])
async def test_a_listener_that_has_to_move_on_while_its_server_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It goes on with its clients, unless that lasts."""
    look, fails = occupancy.last_life, False

    async def last_life(storage: Storage, role: wire.Role, blocks: Blocks) -> PreviousLife | None:
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        return await look(storage, role, blocks)

    monkeypatch.setattr(occupancy, "last_life", last_life)
    ends: list[Endpoint] = []
    failures: list[BaseException] = []

    async def listen() -> None:
        config = EndpointConfig("listen", tunnel.slots("listen"), CONFIG)
        try:
            async with open_endpoint(config, Log()) as endpoint:
                await endpoint.start()
                ends.append(endpoint)
                await trio.sleep_forever()
        except OSError as error:
            failures.append(error)

    async with playing() as (nursery, tunnel):
        for _ in range(2):
            nursery.start_soon(listen)
        while len(ends) < 2:  # noqa: ASYNC110  (the clock is simulated)
            await trio.sleep(0.01)
        assert [list(end.sessions.by_number) for end in ends] == [[0], [0]]
        fails = True
        await trio.sleep(seconds)
        fails = False
        await trio.sleep(2 * listening.RETRY)
        numbers = [number for end in ends for number in end.sessions.by_number]
        if seconds < listening.PATIENCE:
            assert (sorted(numbers), failures) == ([0, 1], [])
        else:
            assert (numbers, [type(failure) for failure in failures]) == ([0], [OSError])


async def test_dial_is_restarted(autojump_clock: MockClock) -> None:
    async with playing() as (nursery, tunnel):
        listens = [await start(nursery, tunnel, "listen") for _ in range(3)]
        await listens[1].leave()
        for how in ("leave", "kill"):
            dial = await start(nursery, tunnel, "dial")
            await trio.sleep(25)
            assert dial.established() == [0, 2]
            await check(listens[0], dial, 0)
            await check(listens[2], dial, 2)
            await getattr(dial, how)()


async def test_a_second_dial_is_refused_and_a_takeover_moves_all_sessions(
    autojump_clock: MockClock,
) -> None:
    async with playing() as (nursery, tunnel):
        listens = [await start(nursery, tunnel, "listen") for _ in range(2)]

        async def first(*, task_status: trio.TaskStatus[None]) -> None:
            config = EndpointConfig("dial", tunnel.slots("dial"), CONFIG)
            with pytest.raises(SessionError) as caught:  # noqa: PT012
                async with open_endpoint(config, Log()) as endpoint:
                    await endpoint.start()
                    task_status.started()
                    await trio.sleep_forever()
            assert caught.value.code is Code.SUPERSEDED
            ended.set()

        ended = trio.Event()
        await nursery.start(first)
        await trio.sleep(10)
        with pytest.raises(AlreadyRunning):
            async with open_endpoint(
                EndpointConfig("dial", tunnel.slots("dial"), CONFIG), Log()
            ) as second:
                await second.start()
        takeover = attrs.evolve(CONFIG, takeover=True)
        dial = await start(nursery, tunnel, "dial", session=takeover)
        with trio.fail_after(30):
            await ended.wait()
        await trio.sleep(30)
        for number, listen in enumerate(listens):
            await check(listen, dial, number)


async def test_a_listener_that_is_taken_over_ends(autojump_clock: MockClock) -> None:
    async with playing() as (nursery, tunnel):
        takeover = attrs.evolve(CONFIG, takeover=True)
        config = EndpointConfig("listen", tunnel.slots("listen"), CONFIG)
        with trio.fail_after(60), pytest.raises(SessionError) as caught:  # noqa: PT012
            async with open_endpoint(config, Log()) as endpoint:
                await endpoint.start()
                await trio.sleep(10)
                await start(nursery, tunnel, "listen", session=takeover)
                await trio.sleep_forever()
        assert caught.value.code is Code.SUPERSEDED


async def test_a_session_that_is_only_being_opened_keeps_no_end_from_ending(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server hangs, or is slow to fill a large mailbox."""

    async def hang(*_: object) -> bytes:
        await trio.sleep_forever()
        return b""

    def hanging(number: int) -> Storage:
        made = storage(number)
        if number:
            made.writer.prepare = hang  # type: ignore[method-assign]
        return made

    async with playing() as (nursery, tunnel):
        slots = tunnel.slots("dial")
        storage = slots.storage
        monkeypatch.setattr(slots, "storage", hanging)
        with trio.fail_after(60):
            async with open_endpoint(EndpointConfig("dial", slots, CONFIG), Log()) as dial:
                await dial.start()
                listens = [await start(nursery, tunnel, "listen") for _ in range(2)]
                await trio.sleep(QUIET_LOOK)
                assert [slot for slot, _ in slots.storages].count(1) == 2  # looked at, and opened
                assert list(dial.sessions.by_number) == [0]
        assert [listen.numbers for listen in listens] == [[0], [1]]


async def test_events_name_the_session(autojump_clock: MockClock) -> None:
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        for _ in range(2):
            await start(nursery, tunnel, "listen")
        await trio.sleep(10)
        assert [
            event.session
            for event in dial.log.events
            if isinstance(event, SessionChange) and isinstance(event.change, Established)
        ] == [0, 1]


@pytest.mark.parametrize(("listeners", "most"), [(0, 2.0), (1, 3.0), (4, 8.0)])
async def test_what_idle_sessions_cost(
    autojump_clock: MockClock, listeners: int, most: float
) -> None:
    """Operations a second of the dialling end; see docs/operations.md."""
    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        for _ in range(listeners):
            await start(nursery, tunnel, "listen")
        await trio.sleep(100)
        before = dial.slots.operations()
        await trio.sleep(900)  # many times of all that is done now and then
        assert (dial.slots.operations() - before) / 900 <= most


async def test_a_read_that_fails_once_a_listener_is_gone_is_no_harm_to_others(
    autojump_clock: MockClock,
) -> None:
    async def failing(offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with playing() as (nursery, tunnel):
        dial = await start(nursery, tunnel, "dial")
        listen = await start(nursery, tunnel, "listen")
        passing = await start(nursery, tunnel, "listen")
        await trio.sleep(60)
        await passing.leave()
        await trio.sleep(UNUSED - 5)
        assert dial.numbers == [0, 1]
        for number, storage in dial.slots.storages:
            if number == 1:
                storage.reader.read = failing  # type: ignore[method-assign]
        await trio.sleep(30)
        assert dial.numbers == [0]
        await check(listen, dial, 0)


async def test_a_bound_of_operations_is_of_all_sessions_together(autojump_clock: MockClock) -> None:
    """Also of sessions that come and go, and of the looks for new ones."""
    bound = 20.0
    async with playing() as (nursery, tunnel):
        config = attrs.evolve(CONFIG, max_ops=bound)
        dial = await start(nursery, tunnel, "dial", session=config)

        async def ask(listen: End) -> None:
            await listen.session.wait_established()
            while True:
                with pytest.raises(StreamRefused):
                    await listen.session.open_stream("unix:/no/such")

        for _ in range(3):
            nursery.start_soon(ask, await start(nursery, tunnel, "listen"))
        passing = await start(nursery, tunnel, "listen")
        await trio.sleep(60)
        assert dial.established() == [0, 1, 2, 3]
        before = dial.slots.operations()
        await trio.sleep(10)
        await passing.leave()
        await trio.sleep(50)
        assert dial.established() == [0, 1, 2]
        count = dial.slots.operations() - before
        assert 0.8 * 60 * bound < count <= 61 * bound


async def test_a_listener_that_the_other_side_does_not_look_at_finds_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sides were given different numbers of sessions."""
    # all ends are of one process here, whose word on itself is none
    monkeypatch.setattr("muxfs.process.is_alive", lambda _: True)
    monkeypatch.setattr("muxfs.process.identity", lambda: "another")
    async with playing() as (nursery, tunnel):
        first = await start(nursery, tunnel, "listen", most_sessions=3)
        second = await start(nursery, tunnel, "listen", most_sessions=3)
        assert await second.endpoint.find_dialler() is None
        dial = await start(nursery, tunnel, "dial", most_sessions=1)
        await trio.sleep(60)
        assert (first.established(), second.established()) == ([0], [])
        assert await first.endpoint.find_dialler() is None
        found = await second.endpoint.find_dialler()
        assert found is not None
        assert found.host
        await dial.leave()
        assert await second.endpoint.find_dialler() is None
