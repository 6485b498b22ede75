"""The two ends of each measurement: a TCP service, and the clients of it.

They cost as little as plain sockets in Python can, so that a run measures what is between
them. A connection begins with one byte that says what the client wants, and a number.

    python -m bench.endpoints serve                 prints its port, serves until killed
    python -m bench.endpoints bulk PORT up|down     transfers until its standard input ends
    python -m bench.endpoints upload PORT BYTES     prints JSON: bytes per second
    python -m bench.endpoints echoes PORT ROUNDS steadily|mixed     prints JSON: their times
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

ECHO, SINK, SOURCE, DIGEST, CROWD = b"E", b"S", b"G", b"H", b"C"
REQUEST = struct.Struct("!cQ")
COUNT = struct.Struct("!Q")
BUFFER = 1 << 20
TIMEOUT = 120.0
ENDLESS = 1 << 62
WARM = 32 << 20
PAUSES = (0.0, 0.0, 0.001, 0.0, 0.003, 0.0, 0.0, 0.01, 0.0, 0.002, 0.0, 0.03)
"""Between echoes that are mixed, in seconds; and a second one every 1,000 rounds."""


class Truncated(Exception):
    """A connection ended before its time."""


def connect(port: int) -> socket.socket:
    """Connect to a local port, ready for small messages."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Receive `size` bytes."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise Truncated(f"{len(data)} bytes of {size}")
        data += more
    return data


def receive(connection: socket.socket, size: int) -> Iterator[memoryview]:
    """Receive `size` bytes into one buffer, and give each piece."""
    buffer = memoryview(bytearray(BUFFER))
    while size:
        received = connection.recv_into(buffer, min(size, BUFFER))
        if not received:
            raise Truncated(f"{size} bytes are missing")
        size -= received
        yield buffer[:received]


def send(connection: socket.socket, size: int, block: bytes = bytes(BUFFER)) -> None:
    """Send `size` bytes: the block, over and over."""
    view = memoryview(block)
    while size:
        sent = connection.send(view[: min(size, BUFFER)])
        size -= sent
        view = view[sent:] if sent < len(view) else memoryview(block)


def digest_of(size: int, block: bytes) -> bytes:
    """Return the digest of what `send` sends."""
    digest = hashlib.sha256()
    for start in range(0, size, len(block)):
        digest.update(block[: size - start])
    return digest.digest()


# The service.


class Crowd:
    """Echoes for as many connections as come, in one thread: idle ones cost nothing."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._members: dict[int, socket.socket] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, connection: socket.socket) -> None:
        """Serve one more; it is closed when its client leaves."""
        self._members[connection.fileno()] = connection
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                connection = self._members[descriptor]
                data = b""
                with contextlib.suppress(OSError):
                    data = connection.recv(BUFFER)
                    connection.sendall(data)
                if not data:
                    del self._members[descriptor]
                    connection.close()  # which also ends its registration


def _serve_one(connection: socket.socket) -> None:
    wanted, size = REQUEST.unpack(receive_exactly(connection, REQUEST.size))
    if wanted == ECHO:
        while data := connection.recv(BUFFER):
            connection.sendall(data)
    elif wanted == SOURCE:
        send(connection, size)
    elif wanted == SINK:
        received = sum(len(piece) for piece in receive(connection, size))
        connection.sendall(COUNT.pack(received))
    elif wanted == DIGEST:
        digest, pieces = hashlib.sha256(), receive(connection, size)
        for piece in pieces:
            digest.update(piece)
            connection.sendall(piece)
        connection.sendall(digest.digest())


def _serve_and_close(connection: socket.socket, crowd: Crowd) -> None:
    # A client that was stopped in the middle of a bulk transfer is none of our troubles.
    with connection, contextlib.suppress(OSError, Truncated):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.recv(1, socket.MSG_PEEK) == CROWD:
            receive_exactly(connection, REQUEST.size)
            connection.sendall(CROWD)
            crowd.add(socket.socket(fileno=connection.detach()))
        else:
            _serve_one(connection)


def serve() -> None:
    """Serve on a free local port until killed."""
    crowd = Crowd()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            arguments = (connection, crowd)
            threading.Thread(target=_serve_and_close, args=arguments, daemon=True).start()


# The clients.


def upload(port: int, size: int) -> float:
    """Send `size` bytes; return the seconds until the service has got them all."""
    with connect(port) as connection:
        start = time.perf_counter()
        connection.sendall(REQUEST.pack(SINK, size))
        send(connection, size)
        (received,) = COUNT.unpack(receive_exactly(connection, COUNT.size))
        if received != size:
            raise Truncated(f"the service got {received} bytes of {size}")
        return time.perf_counter() - start


def download(port: int, size: int) -> float:
    """Have `size` bytes sent; return the seconds until the last of them is here."""
    with connect(port) as connection:
        start = time.perf_counter()
        connection.sendall(REQUEST.pack(SOURCE, size))
        for _ in receive(connection, size):
            pass
        return time.perf_counter() - start


def check_digests(port: int, size: int, block: bytes) -> bool:
    """Send bytes and have them sent back; say whether both ends saw the right ones."""
    expected, digest = digest_of(size, block), hashlib.sha256()
    with connect(port) as connection:
        connection.sendall(REQUEST.pack(DIGEST, size))
        sender = threading.Thread(target=send, args=(connection, size, block))
        sender.start()
        for piece in receive(connection, size):
            digest.update(piece)
        sender.join()
        return receive_exactly(connection, 32) == digest.digest() == expected


@contextlib.contextmanager
def open_echo(port: int) -> Iterator[Callable[[], float]]:
    """Give a function that does one round trip of one byte, and returns its seconds."""
    with connect(port) as connection:
        connection.sendall(REQUEST.pack(ECHO, 0))
        bytes_sent = itertools.cycle([bytes([value]) for value in range(251)])

        def round_trip() -> float:
            sent = next(bytes_sent)
            start = time.perf_counter()
            connection.send(sent)
            received = connection.recv(2)
            if received != sent:
                raise Truncated(f"the echo of {sent!r} was {received!r}")
            return time.perf_counter() - start

        yield round_trip


def echoes(port: int, rounds: int, pauses: Sequence[float]) -> dict[str, float]:
    """Round trips on one connection; as many as there were before one was stuck or wrong."""
    seconds = []
    with contextlib.suppress(OSError, Truncated), open_echo(port) as round_trip:
        for number, pause in zip(range(rounds), itertools.cycle(pauses), strict=False):
            seconds.append(round_trip())
            if pause or (len(pauses) > 1 and number % 1000 == 999):
                time.sleep(pause or 1.0)
    ordered = sorted(seconds)
    return {
        "rounds": len(ordered),
        "p50 ms": ordered[len(ordered) // 2] * 1e3,
        "p99 ms": ordered[len(ordered) * 99 // 100] * 1e3,
        "max ms": ordered[-1] * 1e3,
    }


def short_connection(port: int) -> float:
    """Connect, have one byte echoed, close; return the seconds."""
    start = time.perf_counter()
    with connect(port) as connection:
        connection.sendall(REQUEST.pack(ECHO, 0) + b"x")
        receive_exactly(connection, 1)
    return time.perf_counter() - start


def _bulk_up(connection: socket.socket) -> Iterator[int]:
    connection.sendall(REQUEST.pack(SINK, ENDLESS))
    data = bytes(BUFFER)
    while True:
        yield connection.send(data)


def _bulk_down(connection: socket.socket) -> Iterator[int]:
    connection.sendall(REQUEST.pack(SOURCE, ENDLESS))
    yield from map(len, receive(connection, ENDLESS))


def bulk(port: int, direction: str) -> None:
    """Transfer until the standard input ends; print the bytes per second.

    Says "warm" once the stream is at its speed; the rate is counted from there.
    """
    with connect(port) as connection:
        pieces = _bulk_up(connection) if direction == "up" else _bulk_down(connection)
        warm = 0
        while warm < WARM:
            warm += next(pieces)
        print("warm", flush=True)
        start, count = time.perf_counter(), 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            count += next(pieces)
        print(count / (time.perf_counter() - start))


def main(work: str, port: str = "", *arguments: str) -> None:
    """Do what the command line says."""
    match work, *arguments:
        case ["serve"]:
            serve()
        case "bulk", direction:
            bulk(int(port), direction)
        case "upload", size:
            upload(int(port), 1)  # after a pause the first byte is late: another work measures that
            print(json.dumps({"MB/s": int(size) / upload(int(port), int(size)) / 1e6}))
        case "echoes", rounds, how:
            pauses = PAUSES if how == "mixed" else (0.0,)
            print(json.dumps(echoes(int(port), int(rounds), pauses)))


if __name__ == "__main__":
    main(*sys.argv[1:])
