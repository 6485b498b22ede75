"""Standard input and output, copied to and from a socket by a thread each.

Rule 1: an end of file proves nothing, since a kill makes one, too. Each direction is
complete only when its sender said so on the control connection: `eof`.
Rule 2: standard output stays open until then, so that whoever reads it sees an end of file
only when all has arrived, or when this process ends with its exit code.

Not by splice(2): it holds the lock of a pipe while it waits for the other side. Programs that
use the pipe without blocking, such as ssh, would stand still with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading

from muxfs.control.client import End, Gone

PIECE = 1 << 18
"""Bytes of a call at the most."""
STDIN, STDOUT = 0, 1


class Copying:
    """Copies in both directions; `open_standard_descriptors` must come before all else."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._data, self.theirs = socket.socketpair()
        """`theirs` is for the end; to be closed once it is sent."""
        self._down = threading.Thread(target=self._copy_output, daemon=True)
        self._up = threading.Thread(target=self._copy_input, daemon=True)
        self.failure: tuple[str, OSError] | None = None
        """What could not be done, as in "read standard input", and why."""

    def start(self) -> None:
        """Begin to copy."""
        self._down.start()
        self._up.start()

    def finish_output(self) -> None:
        """Pass on the end of file, once all is written. See `failure` afterwards."""
        self._down.join()
        try:
            os.close(STDOUT)  # a network filesystem may only now tell of a full disk
        except OSError as error:
            self._failed("write to standard output", error)
        open_standard_descriptors()

    def _copy_input(self) -> None:
        # errors of the socket: the end tells why on the control connection
        with contextlib.suppress(ConnectionError, Gone):
            while data := self._read():
                self._data.sendall(data)
            if self.failure is None:
                self._end.send({"event": "eof"})
                self._data.shutdown(socket.SHUT_WR)

    def _copy_output(self) -> None:
        buffer = memoryview(bytearray(PIECE))
        with contextlib.suppress(ConnectionError):
            while count := self._data.recv_into(buffer):
                self._write(buffer[:count])

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(STDIN, PIECE)
            except BlockingIOError:  # whoever shares it with us made it so
                _wait(STDIN, select.POLLIN)
            except OSError as error:
                self._failed("read standard input", error)
                return b""

    def _write(self, data: memoryview) -> None:
        while data and self.failure is None:
            try:
                data = data[os.write(STDOUT, data) :]
            except BlockingIOError:
                _wait(STDOUT, select.POLLOUT)
            except OSError as error:
                self._failed("write to standard output", error)

    def _failed(self, what: str, error: OSError) -> None:
        self.failure = self.failure or (what, error)
        self._end.abort()  # what was cut off must not look complete


def open_standard_descriptors() -> None:
    """Put /dev/null where a standard descriptor is closed, so that nothing else gets its number."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)


def _wait(descriptor: int, what: int) -> None:
    poll = select.poll()
    poll.register(descriptor, what)
    poll.poll()
