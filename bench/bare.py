"""The least that two hosts can do with two files, without muxfs: what the tunnel is held to.

    python -m bench.bare pingpong first|second DIRECTORY ROUNDS PAUSE
    python -m bench.bare stream first|second DIRECTORY MEBIBYTES BLOCK-KIB

DIRECTORY holds two empty files, first and second, which one host made before the scripts start:
on NFS v3 a name that was looked for in the tick in which it was made may stay unseen for a minute.

Both read past the client's cache (O_DIRECT) and write through to the server (O_DSYNC), in place.
`first` prints JSON. A round of the ping-pong is one page each way, looked for every PAUSE
seconds. The stream goes through a ring: blocks of data, and a page that says how far it is;
the reader says in its own file how far it has read.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import sys
import time

PAGE = 4096
RING = 16 << 20
TIMEOUT = 60.0


class Pair:
    """The own file and the other one's, of the same size."""

    def __init__(self, directory: str, role: str, size: int) -> None:
        names = ("first", "second") if role == "first" else ("second", "first")
        own, other = (os.path.join(directory, name) for name in names)
        self._own = os.open(own, os.O_RDWR | os.O_DSYNC)
        for offset in range(0, size, 1 << 20):
            os.pwrite(self._own, bytes(min(1 << 20, size - offset)), offset)
        self._other = os.open(other, os.O_RDONLY | os.O_DIRECT)
        self._buffer = memoryview(mmap.mmap(-1, max(size, PAGE)))

    def write(self, data: bytes | memoryview, offset: int = 0) -> None:
        """Write all of it."""
        while data:
            written = os.pwrite(self._own, data, offset)
            data, offset = data[written:], offset + written

    def read(self, length: int = PAGE, offset: int = 0) -> memoryview:
        """Read whole pages."""
        done = 0
        while done < length:
            got = os.preadv(self._other, [self._buffer[done:length]], offset + done)
            if not got:
                break
            done += got
        return self._buffer[:done]

    def say(self, number: int) -> None:
        """Write a page that holds a number."""
        self.write(number.to_bytes(8, "big").ljust(PAGE, b"\0"))

    def hear(self) -> int:
        """Read the other one's number."""
        return int.from_bytes(self.read()[:8], "big")

    def wait_for(self, number: int, pause: float) -> int:
        """Wait until the other one's number is that large; return it."""
        deadline = time.monotonic() + TIMEOUT
        while (heard := self.hear()) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {number} within {TIMEOUT} s")
            if pause:
                time.sleep(pause)
        return heard


def pingpong(role: str, directory: str, rounds: int, pause: float) -> dict[str, float]:
    """Answer each other."""
    pair = Pair(directory, role, PAGE)
    seconds = []
    for number in range(1, rounds + 1):
        start = time.perf_counter()
        if role == "first":
            pair.say(number)
        pair.wait_for(number, pause)
        if role == "second":
            pair.say(number)
        seconds.append(time.perf_counter() - start)
    warm = sorted(seconds[len(seconds) // 10 :])
    return {"p50 ms": statistics.median(warm) * 1e3, "p99 ms": warm[len(warm) * 99 // 100] * 1e3}


def stream(role: str, directory: str, mebibytes: int, block: int) -> dict[str, float]:
    """Stream from the first to the second."""
    pair = Pair(directory, role, PAGE + RING)
    total = mebibytes << 20
    pair.say(1)
    pair.wait_for(1, 0.001)  # both are ready
    start = time.perf_counter()
    if role == "first":
        _write_stream(pair, total, block)
    else:
        _read_stream(pair, total, block)
    return {"MB/s": total / (time.perf_counter() - start) / 1e6}


def _write_stream(pair: Pair, total: int, block: int) -> None:
    data = os.urandom(block)
    read = written = 0
    while written < total:
        if written + block - read > RING:
            read = pair.wait_for(1 + written + block - RING, 0.0005) - 1
        pair.write(data, PAGE + written % RING)
        written += block
        pair.say(1 + written)
    pair.wait_for(1 + total, 0.0005)


def _read_stream(pair: Pair, total: int, block: int) -> None:
    read = 0
    while read < total:
        written = pair.wait_for(2 + read, 0.0005) - 1
        while read < written:
            pair.read(block, PAGE + read % RING)
            read += block
        pair.say(1 + read)


def main(work: str, role: str, directory: str, first: str, second: str) -> None:
    """Do what the command line says."""
    if work == "pingpong":
        report = pingpong(role, directory, int(first), float(second))
    else:
        report = stream(role, directory, int(first), int(second) << 10)
    if role == "first":
        print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
