"""UDP ASSOCIATE of SOCKS 5 (RFC 1928, section 7): a socket for one client's datagrams.

Its life is the life of the client's TCP connection. Only datagrams from the host of
that connection are taken, and from the port that the client named, if it did; each
port has to be the admitted user's.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from typing import Final

import attrs
import trio

from muxfs.forwards.admission import Admission
from muxfs.forwards.associations import Associations
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.datagrams import receive_for_ever, send_or_drop
from muxfs.forwards.ports import bind
from muxfs.forwards.routes import Route
from muxfs.forwards.socks import Reply, SocksRequest, read_datagram, write_datagram
from muxfs.forwards.targets import Datagrams
from muxfs.forwards.tcp import Connection, address_text

MAX_TARGETS: Final = 64
"""Targets of one association at once."""


async def associate(
    carrier: Carrier,
    connection: Connection,
    request: SocksRequest,
    route: Route,
    admission: Admission,
) -> None:
    """Relay a client's datagrams until its connection ends; closes that. Raises OSError."""
    family = connection.sock.family
    if family == socket.AF_UNIX:
        await connection.send_all(request.failed(Reply.COMMAND_NOT_SUPPORTED))
        connection.close()
        return
    host, client = connection.sock.getsockname()[0], connection.sock.getpeername()[0]
    port = request.target.port if request.target is not None else 0
    with bind(family, socket.SOCK_DGRAM, host, 0) as sock, carrier.load.one_more():
        await connection.send_all(request.granted(address_text(sock.getsockname())))
        async with trio.open_nursery() as nursery:
            associations = Associations(nursery, carrier, sock, admission, MAX_TARGETS)
            relay = _Relay(sock, associations, route, client, port)
            nursery.start_soon(receive_for_ever, sock, relay.take)
            with contextlib.suppress(OSError):  # out of the nursery it would come as a group
                while await connection.receive(1 << 10):  # of no meaning
                    await trio.lowlevel.checkpoint()  # a client that floods keeps nobody waiting
            nursery.cancel_scope.cancel()
    connection.close()


@attrs.define(eq=False)
class _Relay:
    """The client's side of an association."""

    sock: socket.socket
    associations: Associations
    route: Route
    host: str
    port: int
    """0: any."""

    def take(self, data: bytes, sender: tuple[str, int]) -> None:
        """Pass one datagram of the client on."""
        found = read_datagram(data)
        if found is None or sender[0] != self.host or sender[1] != (self.port or sender[1]):
            return
        target, payload = found
        header = write_datagram(target, b"")
        deliver = functools.partial(self._answer, sender, header)
        text = self.route.text(str(Datagrams(target)))
        self.associations.send(sender, text, deliver, payload)

    def _answer(self, client: tuple[str, int], header: bytes, datagram: bytes) -> None:
        send_or_drop(self.sock, header + datagram, client)
