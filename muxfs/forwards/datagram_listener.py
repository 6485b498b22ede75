"""The side where the clients are, for UDP (-U): each client is an association."""

from __future__ import annotations

import functools
import socket

import trio

from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.associations import Associations
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.datagrams import receive_for_ever, send_or_drop
from muxfs.forwards.ports import OpenPort, PortForward
from muxfs.forwards.routes import route_of


class DatagramListener(PortForward):
    """Carries the datagrams to one open port through a session."""

    def __init__(self, carrier: Carrier, port: OpenPort, admission: Admission = OWN_USER) -> None:
        """Take over the open port."""
        super().__init__(port)
        self._carrier = carrier
        self._admission = admission
        self._target = route_of(port.forward).target

    async def run(self) -> None:
        """Carry datagrams until cancelled or stopped: without the port there are no answers."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for sock in self.port.sockets:
                        nursery.start_soon(self._serve, sock)
        finally:
            await self._close()

    async def _serve(self, sock: socket.socket) -> None:
        async with trio.open_nursery() as nursery:
            associations = Associations(nursery, self._carrier, sock, self._admission)

            def take(datagram: bytes, client: tuple[str, int]) -> None:
                deliver = functools.partial(send_or_drop, sock, receiver=client)
                associations.send(client, self._target, deliver, datagram)

            await receive_for_ever(sock, take)
