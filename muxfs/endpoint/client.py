"""One client of the control socket: its messages, and the descriptors that come with them."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import trio

from muxfs import credentials
from muxfs.control import protocol
from muxfs.control.protocol import Malformed, Message

MAX_DESCRIPTORS: Final = 1
_ROOM: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Client:
    """A connected client; closes everything that is its own on leaving."""

    def __init__(self, sock: socket.socket, settled: Callable[[], None]) -> None:
        """Take over the socket. `settled` is called once, see `settle`."""
        sock.setblocking(False)
        self.pid, self.uid = credentials.of_peer(sock)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._settled: Callable[[], None] | None = settled
        self._received = bytearray()
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self.take_descriptors():
            os.close(descriptor)
        self._sock.close()
        self.settle()

    def settle(self) -> None:
        """Give the client's place to the next one: it asks for nothing any more."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with the request; they are the caller's now."""
        taken, self._descriptors = self._descriptors, []
        return taken

    async def receive(self) -> Message | None:
        """Receive a message; None if the client is gone. Raises Malformed, OSError."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) >= protocol.MAX_LINE:
                raise Malformed(f"a request is longer than {protocol.MAX_LINE} bytes")
            data, ancillary, flags, _ = await self._sock.recvmsg(
                protocol.MAX_LINE, _ROOM, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._keep(content)
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
                raise Malformed("more than one descriptor")
            if not data:
                return None
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return protocol.decode(line)

    def _keep(self, content: bytes) -> None:
        numbers = array.array("i")
        numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
        self._descriptors += numbers

    async def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the client is gone."""
        data = protocol.encode(message)
        while data:
            data = data[await self._sock.send(data) :]

    async def refuse(self, code: str, error: str) -> None:
        """Answer that it was not done, and why: a sentence for people."""
        await self.send({"ok": False, "code": code, "error": error})
