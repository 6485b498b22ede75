"""Several listening ends at once, and one that dials."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio

from .net import MIB, connect, exchange, receive_exactly, serve
from .process import EVENT_TIMEOUT, Side, Tunnel

_numbers = itertools.count()


async def service(stream: trio.SocketStream) -> None:
    """Exchange a MiB with each client, after its number."""
    async with stream:
        (number,) = await receive_exactly(stream, 1)
        try:
            await exchange(stream, f"down {number}", f"up {number}", MIB)
        except* trio.BrokenResourceError:
            pass  # a client has seen all, and its end was killed before this side's last bytes


async def check_exchange(listen: Side) -> None:
    """See that connections through that end work."""
    number = next(_numbers) % 256
    async with await connect(await listen.port()) as stream:
        await stream.send_all(bytes([number]))
        await exchange(stream, f"up {number}", f"down {number}", MIB)


async def all_at_once(*jobs: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(EVENT_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)


async def check_all(listens: list[Side]) -> None:
    await all_at_once(*(lambda listen=listen: check_exchange(listen) for listen in listens))


async def sessions_of(listens: list[Side]) -> list[int]:
    """Wait until each stands; return their sessions."""
    return [(await listen.event("established"))["session"] for listen in listens]


async def start_in_turn(tunnel: Tunnel, target: int, count: int) -> list[Side]:
    """Start listening ends, each when the one before has its session."""
    listens = []
    for _ in range(count):
        listens.append(await tunnel.listen(target))
        await listens[-1].event("waiting")
    return listens


async def start_together(tunnel: Tunnel, target: int, count: int) -> list[Side]:
    """Start listening ends at the same instant."""
    listens: list[Side] = []

    async def start() -> None:
        listens.append(await tunnel.listen(target))

    await all_at_once(*[start] * count)
    return listens


@pytest.mark.parametrize("dial_first", [False, True])
async def test_one_dial_serves_several_listens(
    tunnel: Tunnel, nursery: trio.Nursery, dial_first: bool
) -> None:
    target = await serve(nursery, service)
    if dial_first:
        await tunnel.dial()
    listens = await start_in_turn(tunnel, target, 3)
    if not dial_first:
        await tunnel.dial()
    assert await sessions_of(listens) == [0, 1, 2]
    await check_all(listens)
    done = await trio.run_process(
        [sys.executable, "-m", "muxfs", "status", str(tunnel.directory), "--json"],
        capture_stdout=True,
    )
    (found,) = json.loads(done.stdout)["tunnels"]
    states = {session["session"]: session["state"] for session in found["sessions"]}
    assert states == {"0": "established", "1": "established", "2": "established"}


async def test_listens_that_start_at_the_same_instant(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    """On new files, and on those of ends that are gone."""
    target = await serve(nursery, service)
    await tunnel.dial()
    for _ in range(2):
        listens = await start_together(tunnel, target, 3)
        await sessions_of(listens)
        # one that was established may have had to move on: the last session counts
        with trio.fail_after(EVENT_TIMEOUT):
            while len(set(last_sessions(listens))) < 3:  # noqa: ASYNC110  (any may tell)
                await trio.sleep(0.05)
        await check_all(listens)
        for listen in listens:
            await listen.terminate()


def last_sessions(listens: list[Side]) -> list[int]:
    """Return in which session each was established last, if it has not left that."""
    found = []
    for listen in listens:
        told = [e for e in listen.events if e["event"] in {"established", "moved"}]
        if told and told[-1]["event"] == "established":
            found.append(told[-1]["session"])
    return found


async def test_a_killed_listen_disturbs_no_other_and_its_session_is_used_again(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, service)
    dial = await tunnel.dial()
    one, victim, other = listens = await start_in_turn(tunnel, target, 3)
    assert await sessions_of(listens) == [0, 1, 2]
    await check_all(listens)  # now they stand on the other side, too
    before = {side: len(side.events) for side in (dial, one, other)}
    victim.kill()
    await victim.process.wait()
    await check_all([one, other])
    again = await tunnel.listen(target)
    assert (await again.event("established"))["session"] == 1
    await check_all([one, again, other])
    assert (await dial.event("lost", after=before[dial]))["session"] == 1
    for side, count in before.items():
        lost = [e for e in side.events[count:] if e["event"] == "lost"]
        assert {e["session"] for e in lost} == ({1} if side is dial else set())


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_dial_is_restarted_while_listens_live(
    tunnel: Tunnel, nursery: trio.Nursery, how: str
) -> None:
    target = await serve(nursery, service)
    listens = await start_in_turn(tunnel, target, 3)
    dial = await tunnel.dial()
    await sessions_of(listens)
    seen = [len(listen.events) for listen in listens]
    if how == "kill":
        dial.kill()
        await dial.process.wait()
    else:
        await dial.terminate()
    await tunnel.dial()
    for number, listen in enumerate(listens):
        found = await listen.event("established", after=seen[number])
        assert found["session"] == number
    await check_all(listens)


async def test_of_two_dials_that_start_at_the_same_instant_one_stays(
    tunnel: Tunnel, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, service)
    listens = [await tunnel.listen(target) for _ in range(2)]
    dials: list[Side] = []

    async def start() -> None:
        dials.append(await tunnel.dial())

    await all_at_once(start, start)

    async def end_first() -> None:
        async with trio.open_nursery() as waiting:

            async def wait(dial: Side) -> None:
                await dial.process.wait()
                waiting.cancel_scope.cancel()

            for dial in dials:
                waiting.start_soon(wait, dial)

    await all_at_once(end_first)
    (lost,) = [dial for dial in dials if dial.process.returncode is not None]
    assert lost.process.returncode == 75
    (stays,) = [dial for dial in dials if dial is not lost]
    await stays.event("established")
    await check_all(listens)
