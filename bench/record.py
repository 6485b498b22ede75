"""Record the shape of traffic, for the simulation of polling: a TCP proxy that takes notes.

    python -m bench.record PORT TARGET-PORT FILE

Run a client through PORT, end this with Ctrl-C. FILE gets a line for each message: seconds
since the last one, `>` from the client or `<` to it, bytes. No content is kept. All connections
are one shape; pieces of one direction that follow each other at once are one message.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from pathlib import Path

import attrs

TOGETHER = 0.001
"""Seconds within which pieces are one message."""


@attrs.frozen
class Message:
    """One message of a recorded shape."""

    gap: float
    """Seconds since the last one."""
    way: str
    size: int

    def __str__(self) -> str:
        return f"{self.gap:.3f} {self.way} {self.size}"


def load(path: Path) -> list[Message]:
    """Read a recorded shape."""
    lines = [line.split() for line in path.read_text().splitlines() if line[:1] not in {"#", ""}]
    return [Message(float(gap), way, int(size)) for gap, way, size in lines]


class Recorder:
    """Takes notes of what passes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._lock = threading.Lock()
        self._last = 0.0

    def note(self, way: str, size: int) -> None:
        """Take note of a piece."""
        now = time.monotonic()
        with self._lock:
            gap = now - (self._last or now)
            self._last = now
            last = self.messages[-1] if self.messages else None
            if last is not None and last.way == way and gap < TOGETHER:
                self.messages[-1] = attrs.evolve(last, size=last.size + size)
            else:
                self.messages.append(Message(gap, way, size))

    def move(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        """Move one direction."""
        try:
            while data := source.recv(1 << 18):
                self.note(way, len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()

    def serve(self, port: int, target: int) -> None:
        """Accept connections for ever."""
        with socket.create_server(("127.0.0.1", port), backlog=100) as listener:
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                for pair in ((near, far, ">"), (far, near, "<")):
                    threading.Thread(target=self.move, args=pair, daemon=True).start()


def main(port: str, target: str, path: str) -> None:
    """Record until interrupted."""
    recorder = Recorder()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    try:
        recorder.serve(int(port), int(target))
    except KeyboardInterrupt:
        Path(path).write_text("".join(f"{message}\n" for message in recorder.messages))


if __name__ == "__main__":
    main(*sys.argv[1:])
