"""Finding the ends that run on this host, and asking them.

Blocking, with the kernel's timeouts: for commands that do one thing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from muxfs import credentials
from muxfs.control import place, protocol
from muxfs.control.protocol import Message

_TIMEVAL = struct.Struct("ll")


class Gone(Exception):
    """The end closed the connection: it was ended, or killed."""


class End:
    """A connection to an end that said who it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self.hello: Message = {}

    @property
    def pid(self) -> int:
        """The process id of the end."""
        return int(self.hello.get("pid") or 0)

    @property
    def role(self) -> str:
        """`listen` or `dial`."""
        return str(self.hello.get("role"))

    @property
    def speaks_this(self) -> bool:
        """Whether it understands our requests."""
        return self.hello.get("muxfs") == protocol.VERSION

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send the request, with copies of descriptors. Raises Gone."""
        try:
            # one call sends all: it is far less than the buffer of a Unix socket
            socket.send_fds(self._sock, [protocol.encode(message)], descriptors)
        except OSError as error:
            raise Gone from error

    def receive(self) -> Message:
        """Wait for the next message. Raises Gone, Malformed."""
        while b"\n" not in self._rest:
            try:
                data = self._sock.recv(protocol.MAX_LINE)
            except OSError as error:
                raise Gone from error
            if not data or len(self._rest) > protocol.MAX_LINE:
                raise Gone
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return protocol.decode(line)

    def wait_long(self) -> None:
        """Wait without a limit from now on: the answer may take as long as a connection lasts."""
        _set_timeout(self._sock, 0)

    def abort(self) -> None:
        """Break the connection off, from any thread: the end then breaks off what it carries."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def find(tunnel: str, role: str) -> Iterator[End]:
    """Find the ends of a role that run on this host, for the tunnel with that real path.

    Each that is not wanted is for the caller to close. One that gives no answer is left out.
    """
    for path in place.directories():
        with contextlib.suppress(place.Unsafe, OSError), place.opened(path) as directory:
            for slot in range(place.SLOTS):
                end = _reach(directory, f"{place.stem(tunnel, role, slot)}.sock")
                if end is None:
                    continue
                if end.hello.get("tunnel") == tunnel and end.role == role:
                    yield end
                else:
                    end.close()


def _reach(directory: int, name: str) -> End | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _set_timeout(sock, protocol.HELLO_TIME)
        sock.connect(place.address(directory, name))
        if credentials.of_peer(sock)[1] != os.geteuid():
            raise Gone  # noqa: TRY301
        end = End(sock)
        end.hello = end.receive()
    except (OSError, Gone, protocol.Malformed):
        sock.close()  # of a process that was killed, or that is about to end
        return None
    return end


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    # Not settimeout: that makes connect() fail at once where the other side's queue is full.
    limit = _TIMEVAL.pack(int(seconds), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)
