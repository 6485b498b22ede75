"""One TCP connection, driven by hand: what `trio.SocketStream` hides matters here.

Rule 1: how a connection ended is never guessed. A reset that the kernel reports
to a write must not let the following read look like a clean end.
Rule 2: data that was sent before `finish` arrives; `reset` throws it away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Callable

import trio

Buffer = bytes | bytearray | memoryview

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_FINISH_ON_CLOSE = struct.pack("ii", 0, 0)
_OUTPUT_QUEUE = termios.TIOCOUTQ  # SIOCOUTQ: bytes that the peer's kernel has not acknowledged
LITTLE = 4096
"""Bytes: fewer than that are a message, more may be a part of a stream that goes on."""
FINISH_TIME = 10.0
"""Seconds that a client may take to read the rest, while it goes on sending what nobody reads."""


def address_text(address: object) -> str:
    """Write a socket address as `host:port` (`[host]:port` for IPv6)."""
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return str(address)


def reset_on_close(sock: socket.socket | trio.socket.SocketType, wanted: bool) -> None:
    """Choose how a TCP socket is closed, also by the kernel when it is dropped: RST or FIN."""
    value = _RESET_ON_CLOSE if wanted else _FINISH_ON_CLOSE
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


class Connection:
    """A connected socket. One task may receive while another one sends."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected stream socket."""
        sock.setblocking(False)
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reset_seen = False
        self._drained = False
        """Whether the last read took all there was, and that was little: one more finds nothing."""

    @classmethod
    def of_stream(cls, stream: trio.SocketStream) -> Connection:
        """Take the socket out of a trio stream."""
        return cls(socket.socket(fileno=stream.socket.detach()))

    @property
    def sock(self) -> socket.socket:
        """The socket, for questions to the kernel about it."""
        return self._sock

    @property
    def peer(self) -> str:
        """The other end's address."""
        return self._name(self._sock.getpeername)

    @property
    def local(self) -> str:
        """This end's address."""
        return self._name(self._sock.getsockname)

    @staticmethod
    def _name(ask: Callable[[], object]) -> str:
        try:
            return address_text(ask())
        except OSError:
            return ""

    def receive_now(self, limit: int) -> bytes:
        """Receive what is here already, up to `limit` bytes; `receive` tells of an end."""
        try:
            return self._take(limit)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._note(error)
            return b""

    async def receive(self, limit: int) -> bytes:
        """Receive up to `limit` bytes; b"" at a clean end. Raises OSError for a reset.

        Not a checkpoint when data is there: the caller sends it somewhere, which is one.
        """
        if self._drained:
            await trio.lowlevel.wait_readable(self._sock)
        while True:
            try:
                data = self._take(limit)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            if not data and self._reset_seen:
                # the write took the error out of the kernel, which then pretends an end of file
                raise ConnectionResetError(errno.ECONNRESET, "connection reset")
            return data

    def _take(self, limit: int) -> bytes:
        data = self._sock.recv(limit)
        self._drained = 0 < len(data) < min(limit, LITTLE)
        return data

    async def send_all(self, data: Buffer) -> None:
        """Send all bytes. Raises OSError when the other end takes no more."""
        while left := self.send_now(data):
            data = left
            await trio.lowlevel.wait_writable(self._sock)

    def send_now(self, data: Buffer) -> Buffer:
        """Send what the kernel takes at once; return the rest. Raises as `send_all`."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return data
        except OSError as error:
            self._note(error)
            raise
        return b"" if sent == len(data) else memoryview(data)[sent:]

    def _note(self, error: OSError) -> None:
        # EPIPE: the other end had sent its FIN before the reset, so its data is complete
        if error.errno != errno.EPIPE:
            self._reset_seen = True

    def send_eof(self) -> None:
        """Send a FIN after what was sent. Raises OSError."""
        self._sock.shutdown(socket.SHUT_WR)

    async def finish(self) -> None:
        """Close; what was sent still arrives, also when bytes that we never read are there.

        The kernel answers unread bytes at close with a reset at once, and drops
        what the other end has not taken yet. So that is waited for.
        """
        try:
            with trio.move_on_after(FINISH_TIME):
                nap = 0.001
                while self._unsent():
                    self._discard()
                    await trio.sleep(nap)
                    nap = min(2 * nap, 0.1)
        finally:
            self.close()

    def _unsent(self) -> bool:
        answer = fcntl.ioctl(self._sock, _OUTPUT_QUEUE, bytes(4))
        return answer != bytes(4)

    def _discard(self) -> None:
        try:
            for _ in range(16):
                if not self._sock.recv(1 << 18):
                    return
        except OSError:
            pass

    def reset(self) -> None:
        """Close with a TCP reset: the other end sees that the data was cut off."""
        with contextlib.suppress(OSError):  # it may be dead already
            reset_on_close(self._sock, True)
        self.close()

    def close(self) -> None:
        """Close; the kernel goes on delivering what was sent."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
