"""The side where the clients are: accept TCP connections and carry each as a stream.

Rule 1: the accept loop survives everything but a closed socket.
Rule 2: a client that is not served within the connect timeout is reset.
Rule 3: nothing of a client that is not admitted is read.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import SessionError
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Overloaded, Refused
from muxfs.forwards.spec import ANY_ADDRESS, LOCALHOST, Forward
from muxfs.forwards.tcp import Connection

BACKLOG: Final = 1024
OVERLOAD_NAP: Final = 0.2
"""Seconds until accepting is tried again when descriptors or memory are used up."""
PORT_ATTEMPTS: Final = 20

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_OVERLOAD: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@attrs.frozen
class OpenPort:
    """A forward's listening sockets: one for each address, all on one port."""

    forward: Forward
    sockets: tuple[socket.socket, ...]

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses, without the port."""
        return tuple(str(s.getsockname()[0]) for s in self.sockets)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()


async def open_port(forward: Forward, admission: Admission = OWN_USER) -> OpenPort:
    """Bind and listen.

    Raises ExposedAddressError, OSError (EADDRINUSE, EACCES, EADDRNOTAVAIL, gaierror).
    """
    hosts = await _bind_addresses(forward.bind)
    for _, host in hosts:
        admission.check_address(host)
    for attempt in range(PORT_ATTEMPTS):
        try:
            return OpenPort(forward, _listen_on_all(hosts, forward.port))
        except OSError as error:
            # port 0: what was free on the first address may be taken on the second one
            again = error.errno == errno.EADDRINUSE and not forward.port
            if not again or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _bind_addresses(bind: str | None) -> list[tuple[int, str]]:
    if bind is None or bind.casefold() == LOCALHOST:
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    if bind == ANY_ADDRESS:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104
    found = await trio.socket.getaddrinfo(bind, 0, type=socket.SOCK_STREAM)
    hosts = [(int(family), str(address[0])) for family, _, _, _, address in found]
    return list(dict.fromkeys(hosts))


def _listen_on_all(hosts: Sequence[tuple[int, str]], port: int) -> tuple[socket.socket, ...]:
    sockets: list[socket.socket] = []
    try:
        for family, host in hosts:
            try:
                sock = _listen(family, host, port)
            except OSError as error:
                if sockets and error.errno in _NO_SUCH_FAMILY:
                    continue  # a host without IPv6
                raise
            sockets.append(sock)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return tuple(sockets)


def _listen(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class ForwardListener:
    """Carries the connections to one forward's port through a session."""

    def __init__(
        self,
        carrier: Carrier,
        port: OpenPort,
        admission: Admission = OWN_USER,
        *,
        connect_timeout: float,
    ) -> None:
        """Take over the open port. connect_timeout: seconds that clients are held."""
        self._carrier = carrier
        self.port = port
        self._admission = admission
        self._target = str(port.forward.target)
        self._connect_timeout = connect_timeout
        self._overloaded = False
        self._accepting = trio.CancelScope()
        self._stopped = trio.Event()

    async def run(self) -> None:
        """Accept and carry connections until cancelled, or stopped and all of them have ended."""
        async with trio.open_nursery() as connections:
            try:
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for sock in self.port.sockets:
                            acceptors.start_soon(self._accept, sock, connections)
            finally:
                self.port.close()
                self._stopped.set()

    async def stop(self) -> None:
        """Close the port of a running listener; connections that were accepted go on."""
        self._accepting.cancel()
        await self._stopped.wait()

    async def _accept(self, sock: socket.socket, nursery: trio.Nursery) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(sock)
            if self._carrier.full:
                await self._overload(f"{self._carrier.connections} are open (see ulimit -n)")
                continue
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # the rest are errors of one client (ECONNABORTED, EPROTO, ENETDOWN...)
                if error.errno in _OVERLOAD:
                    await self._overload(os.strerror(error.errno))
                continue
            self._overloaded = False
            self._carrier.connections += 1
            nursery.start_soon(self._serve, Connection(client))

    async def _overload(self, why: str) -> None:
        if not self._overloaded:
            self._overloaded = True
            self._carrier.report(Overloaded(f"cannot accept more connections: {why}"))
        await trio.sleep(OVERLOAD_NAP)

    async def _serve(self, connection: Connection) -> None:
        try:
            await self._open_and_carry(connection)
        finally:
            self._carrier.connections -= 1

    async def _open_and_carry(self, connection: Connection) -> None:
        originator = connection.peer
        try:
            stream = await self._admit(connection, originator) or await self._carrier.open(
                self._target, originator, self._connect_timeout
            )
        except SessionError:
            connection.reset()  # it is over for good, and tells its owner itself
            return
        except BaseException:
            connection.reset()
            raise
        if isinstance(stream, Refused):
            self._carrier.report(stream)
            connection.reset()
        else:
            await self._carrier.carry(connection, stream, originator)

    async def _admit(self, connection: Connection, originator: str) -> Refused | None:
        why = await self._admission.refusal(connection.sock)
        return Refused(originator, self._target, Code.PROHIBITED, why) if why else None
