"""The side where the clients are: accept connections and carry each as a stream.

Rule 1: the accept loop survives everything but a closed socket.
Rule 2: a client that is not served within the connect timeout is reset.
Rule 3: nothing of a client that is not admitted is read.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, NoReturn

import trio

from muxfs.core.wire import Code
from muxfs.errors import SessionError
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Overloaded, Refused
from muxfs.forwards.ports import OpenPort, PortForward
from muxfs.forwards.proxy import ProxyClient
from muxfs.forwards.routes import Route, route_of
from muxfs.forwards.tcp import Connection

OVERLOAD_NAP: Final = 0.2
"""Seconds until accepting is tried again when descriptors or memory are used up."""

OVERLOAD: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ForwardListener(PortForward):
    """Carries the connections to one forward's port through a session."""

    def __init__(
        self,
        carrier: Carrier,
        port: OpenPort,
        admission: Admission = OWN_USER,
        *,
        connect_timeout: float,
        route: Route | None = None,
    ) -> None:
        """Take over the open port.

        connect_timeout: seconds that clients are held. route: where they go, if that is
        not what the port's forward says.
        """
        super().__init__(port)
        self._carrier = carrier
        self._admission = admission
        self._route = route or route_of(port.forward)
        self._connect_timeout = connect_timeout
        self._overloaded = False

    async def run(self) -> None:
        """Accept and carry connections until cancelled, or stopped and all of them have ended."""
        async with trio.open_nursery() as connections:
            try:
                with self._scope:
                    async with trio.open_nursery() as acceptors:
                        for sock in self.port.sockets:
                            acceptors.start_soon(self._accept, sock, connections)
            finally:
                await self._close()

    async def _accept(self, sock: socket.socket, nursery: trio.Nursery) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(sock)
            if self._carrier.full:
                await self._overload(f"{self._carrier.load.connections} are open (see ulimit -n)")
                continue
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # the rest are errors of one client (ECONNABORTED, EPROTO, ENETDOWN...)
                if error.errno in OVERLOAD:
                    await self._overload(os.strerror(error.errno))
                continue
            self._overloaded = False
            self._carrier.load.connections += 1
            nursery.start_soon(self._serve, Connection(client))

    async def _overload(self, why: str) -> None:
        if not self._overloaded:
            self._overloaded = True
            self._carrier.report(Overloaded(f"cannot accept more connections: {why}"))
        await trio.sleep(OVERLOAD_NAP)

    async def _serve(self, connection: Connection) -> None:
        try:
            # a client of a Unix socket has no address
            await self._admit_and_carry(connection, connection.peer or self.bound)
        except SessionError:
            connection.reset()  # it is over for good, and tells its owner itself
        except BaseException:
            connection.reset()
            raise
        finally:
            self._carrier.load.connections -= 1

    async def _admit_and_carry(self, connection: Connection, originator: str) -> None:
        carrier, route = self._carrier, self._route
        # the far side alone knows the target of a listener that it asked for
        target = route.target or self.bound
        why = await self._admission.refusal(connection.sock)
        if why:
            carrier.report(Refused(originator, target, Code.PROHIBITED, why))
            connection.reset()
        elif route.greeting is not None:
            client = ProxyClient(
                carrier, connection, originator, route, self._admission, self._connect_timeout
            )
            await client.serve(route.greeting())
        else:
            text = route.text(route.target)
            await carrier.join(connection, text, originator, self._connect_timeout, target)
