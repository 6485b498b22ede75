"""What runs at the two ends of a tunnel, in the clients: services, and those who use them.

    python -m tests.lab.traffic serve [PORT]          prints its port, serves until killed
    python -m tests.lab.traffic WORK PORT [NUMBER]... does one of `WORKS`, prints JSON

A connection begins with one line that says what is wanted, in JSON.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import trio

from tests.e2e import net

Report = dict[str, Any]

STUCK: Final = 90.0
"""Seconds after which a byte is taken for stuck: what heals takes up to a minute."""
PAUSES: Final = (0.0, 0.001, 0.003, 0.01, 0.0, 0.03, 0.002, 0.1, 0.0, 0.3)
"""Seconds: shorter and longer than ticks of file times (10 ms here), and than polls."""


IDLE: Final = (1.0, 3.5, 2.0, 5.0, 3.1)
"""Seconds, so that attributes expire (acregmin: 3), polls become rare, and beats come (5)."""


class Wrong(Exception):
    """A stream did not carry what was sent."""


class Sign:
    """Says "warm", once."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self) -> None:
        """Say it, if that was not done yet."""
        if not self._said:
            print('"warm"', flush=True)
        self._said = True


def _no_sign() -> None:
    pass


# The service.


async def _serve_one(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            request = json.loads(await _line(stream))
            await _SERVICES[request["wanted"]](stream, request)
        except net.Reset:
            pass  # tests reset some


async def _line(stream: trio.SocketStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = await stream.receive_some(1)
        if not byte:
            return b'{"wanted": "nothing"}'
        line += byte
    return line


async def _echo(stream: trio.SocketStream, _request: Report) -> None:
    await net.echo(stream)


async def _duplex(stream: trio.SocketStream, request: Report) -> None:
    await _exchange(stream, f"down {request['name']}", f"up {request['name']}", request["length"])


async def _flood(stream: trio.SocketStream, _request: Report) -> None:
    await net.flood(stream, "down", "up")


async def _nothing(_stream: trio.SocketStream, _request: Report) -> None:
    await trio.lowlevel.checkpoint()


_SERVICES: Final = {"echo": _echo, "duplex": _duplex, "flood": _flood, "nothing": _nothing}


async def serve(port: int = 0) -> None:
    """Serve on a local port."""
    async with trio.open_nursery() as nursery:
        print(json.dumps({"port": await net.serve(nursery, _serve_one, port)}), flush=True)


# Its users.


async def _open(port: int, wanted: str, **request: object) -> trio.SocketStream:
    stream = await net.connect(port)
    await stream.send_all(json.dumps({"wanted": wanted, **request}).encode() + b"\n")
    return stream


async def _exchange(
    stream: trio.SocketStream, out: str, into: str, length: int, warm: Callable[[], None] = _no_sign
) -> None:
    """Send one pattern while another comes, and check its sha256."""
    digest = hashlib.sha256()

    async def send() -> None:
        await net.send_pattern(stream, out, length)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for data in stream:
            digest.update(data)
            warm()
    if digest.digest() != _digest(into, length):
        raise Wrong(f"{into}: not the bytes that were sent")


def _digest(name: str, length: int) -> bytes:
    digest, pattern = hashlib.sha256(), net.Pattern(name)
    for offset in range(0, length, net.CHUNK):
        digest.update(pattern.at(offset, min(net.CHUNK, length - offset)))
    return digest.digest()


async def duplex(port: int, connections: int, mebibytes: int) -> Report:
    """Some connections at once, each with some MiB in both directions; checked by sha256.

    Says "warm" when the first bytes have come.
    """
    length = mebibytes * net.MIB
    sign = Sign()

    async def one(number: int) -> None:
        async with await _open(port, "duplex", name=number, length=length) as stream:
            await _exchange(stream, f"up {number}", f"down {number}", length, sign)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(one, number)
    seconds = time.perf_counter() - start
    each_way = connections * mebibytes
    return {"seconds": seconds, "MiB each way": each_way, "MiB/s each way": each_way / seconds}


async def requests(port: int, count: int, workers: int) -> Report:
    """Short connections: a request, its answer, the end of both."""
    numbers = iter(range(count))
    seconds: list[float] = []

    async def worker() -> None:
        for number in numbers:
            start = time.perf_counter()
            message = f"request {number} ".encode() * 20
            async with await _open(port, "echo") as stream:
                await stream.send_all(message)
                await stream.send_eof()
                if await net.receive_all(stream) != message:
                    raise Wrong(f"answer to request {number}")
            seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(worker)
    return _times(seconds) | {"requests/s": count / (time.perf_counter() - start)}


async def echoes(port: int, rounds: int, pauses: int) -> Report:
    """Round trips of one byte on one connection; with pauses, if that is 1."""
    return await _echo_with_pauses(
        port, itertools.islice(itertools.cycle(PAUSES if pauses else (0.0,)), rounds)
    )


async def light(port: int, rounds: int, longest: int) -> Report:
    """Round trips of one byte on one connection in bursts, idle for `IDLE` between them.

    And once more after `longest` seconds, if that is not 0.
    """
    return await _echo_with_pauses(port, light_pauses(rounds, longest))


def light_pauses(rounds: int, longest: int) -> Iterator[float]:
    """Yield the pause after each round."""
    idle = [*IDLE, float(longest)] if longest else list(IDLE)
    pauses = itertools.cycle(PAUSES)
    burst = rounds // (len(idle) + 1)
    for number in range(1, rounds + 1):
        pause = next(pauses)
        yield idle.pop(0) if idle and number % burst == 0 else pause


async def _echo_with_pauses(port: int, pauses: Iterable[float]) -> Report:
    seconds: list[float] = []
    async with await _open(port, "echo") as stream:
        for number, pause in enumerate(pauses):
            seconds.append(await _round_trip(stream, number))
            await trio.sleep(pause)
    return _times(seconds)


async def _round_trip(stream: trio.SocketStream, number: int) -> float:
    sent = bytes([number % 251])
    start = time.perf_counter()
    await stream.send_all(sent)
    with trio.move_on_after(STUCK):
        received = await stream.receive_some(2)
        if received != sent:
            raise Wrong(f"round {number}: sent {sent!r}, received {received!r}")
        return time.perf_counter() - start
    raise Wrong(f"round {number} is stuck for {STUCK} s")


def _times(seconds: Sequence[float]) -> Report:
    ordered = sorted(seconds)
    return {
        "rounds": len(ordered),
        "p50 ms": statistics.median(ordered) * 1e3,
        "p99 ms": ordered[len(ordered) * 99 // 100] * 1e3,
        "max ms": ordered[-1] * 1e3,
    }


async def flood(port: int) -> Report:
    """Send and receive without end; say "warm" after the first MiB, and how it ended."""
    async with await _open(port, "flood") as stream:
        return {"end": await net.flood(stream, "up", "down", Sign())}


WORKS: Final[dict[str, Callable[..., Awaitable[Report]]]] = {
    work.__name__: work for work in (duplex, requests, echoes, light, flood)
}


def main(work: str, *numbers: str) -> None:
    """Do one work and print its report."""
    if work == "serve":
        trio.run(serve, int(numbers[0]) if numbers else 0)
    else:
        print(json.dumps(trio.run(WORKS[work], *map(int, numbers))))


if __name__ == "__main__":
    main(*sys.argv[1:])
