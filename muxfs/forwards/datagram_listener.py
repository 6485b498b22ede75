"""The side where the clients are, for UDP (-U): each client is an association."""

from __future__ import annotations

import functools
import socket

import trio

from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.associations import Associations
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.datagrams import receive_for_ever, send_or_drop
from muxfs.forwards.ports import OpenPort
from muxfs.forwards.routes import route_of
from muxfs.forwards.spec import Forward


class DatagramListener:
    """Carries the datagrams to one open port through a session."""

    def __init__(self, carrier: Carrier, port: OpenPort, admission: Admission = OWN_USER) -> None:
        """Take over the open port."""
        self._carrier = carrier
        self.port = port
        self._admission = admission
        self._target = route_of(port.forward).target
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    @property
    def forward(self) -> Forward:
        """What is forwarded."""
        return self.port.forward

    @property
    def bound(self) -> str:
        """Where clients send to."""
        return self.port.bound

    @property
    def descriptors(self) -> int:
        """Open files that it takes."""
        return len(self.port.sockets)

    async def run(self) -> None:
        """Carry datagrams until cancelled or stopped; then the port is closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for sock in self.port.sockets:
                        nursery.start_soon(self._serve, sock)
        finally:
            self.port.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Close the port of a running listener: without it there are no answers either."""
        self._scope.cancel()
        await self._stopped.wait()

    async def _serve(self, sock: socket.socket) -> None:
        async with trio.open_nursery() as nursery:
            associations = Associations(nursery, self._carrier, sock, self._admission)

            def take(datagram: bytes, client: tuple[str, int]) -> None:
                deliver = functools.partial(send_or_drop, sock, receiver=client)
                associations.send(client, self._target, deliver, datagram)

            await receive_for_ever(sock, take)
