"""Places to listen on: TCP and UDP ports on one or several addresses, and Unix sockets."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from muxfs.blocking import in_own_thread, in_thread
from muxfs.forwards import unix
from muxfs.forwards.admission import OWN_USER, Admission, ExposedAddressError
from muxfs.forwards.names import resolve
from muxfs.forwards.spec import ANY_ADDRESS, LOCALHOST, Forward, Kind, Port, UnixPath, bracketed

BACKLOG: Final = 1024
PORT_ATTEMPTS: Final = 20
REMOVE_TIME: Final = 5.0
"""Seconds that removing the file of a Unix socket may take."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@attrs.frozen
class OpenPort:
    """A forward's listening sockets: one for each address, all on one port; or a Unix socket."""

    forward: Forward
    sockets: tuple[socket.socket, ...]
    _file: tuple[int, int] | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to; 0 for a Unix socket."""
        return 0 if self._unix else int(self.sockets[0].getsockname()[1])

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses, without the port; the path of a Unix socket."""
        if self._unix:
            return (str(self.sockets[0].getsockname()),)
        return tuple(str(s.getsockname()[0]) for s in self.sockets)

    @property
    def bound(self) -> str:
        """The first address with its port, or `unix:/path`."""
        address = self.addresses[0]
        return f"unix:{address}" if self._unix else f"{bracketed(address)}:{self.port}"

    @property
    def _unix(self) -> bool:
        return isinstance(self.forward.place, UnixPath)

    async def aclose(self) -> None:
        """Close the sockets, and remove the file of a Unix socket, also when cancelled."""
        if self._file is not None and self.sockets[0].fileno() >= 0:
            with trio.move_on_after(REMOVE_TIME, shield=True), contextlib.suppress(OSError):
                # as in `open_port`; threads that hang in opening others keep nobody waiting
                await in_own_thread(unix.remove, self.addresses[0], self._file)
        for sock in self.sockets:
            sock.close()


class PortForward:
    """What all forwards with an open port have in common."""

    def __init__(self, port: OpenPort) -> None:
        """Take over the open port."""
        self.port = port
        self._scope = trio.CancelScope()
        """Around what `stop` ends."""
        self._stopped = trio.Event()

    @property
    def forward(self) -> Forward:
        """What is forwarded."""
        return self.port.forward

    @property
    def bound(self) -> str:
        """Where clients connect to."""
        return self.port.bound

    @property
    def descriptors(self) -> int:
        """Open files that it takes, without its connections."""
        return len(self.port.sockets)

    async def stop(self) -> None:
        """Close the port of a running forward; connections that were accepted go on."""
        self._scope.cancel()
        await self._stopped.wait()

    async def _close(self) -> None:
        await self.port.aclose()
        self._stopped.set()


async def open_port(forward: Forward, admission: Admission = OWN_USER) -> OpenPort:
    """Bind and listen.

    Raises ExposedAddressError, OSError (EADDRINUSE, EACCES, EADDRNOTAVAIL, gaierror).
    """
    place = forward.place
    if isinstance(place, UnixPath):
        # in a thread, since the path may lead into a filesystem that hangs
        sock, file = await in_thread(unix.listen, place.path, BACKLOG)
        return OpenPort(forward, (sock,), file)
    kind = socket.SOCK_DGRAM if forward.kind is Kind.UDP else socket.SOCK_STREAM
    hosts = await _bind_addresses(place.bind)
    for _, host in hosts:
        admission.check_address(host)
    for attempt in range(PORT_ATTEMPTS):
        try:
            return OpenPort(forward, _bind_all(hosts, place, kind))
        except OSError as error:
            # port 0: what was free on the first address may be taken on the second one
            again = error.errno == errno.EADDRINUSE and not place.number
            if not again or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def why_not_open(forward: Forward, error: OSError) -> str:
    """Put an error of `open_port` into words for people."""
    place = forward.place
    if isinstance(error, ExposedAddressError):
        return str(error)
    if isinstance(place, UnixPath):
        where = str(place)
        if error.errno == errno.EADDRINUSE:
            return f"{where}: something listens there, or it is no socket"
    else:
        where = f"port {place.number} of {place.bind or 'localhost'}"
        if isinstance(error, socket.gaierror):
            return f"the address {place.bind!r} is unknown: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            free = attrs.evolve(forward, place=attrs.evolve(place, number=0))
            return f"{where} is in use; {free.option} picks a free one"
        if error.errno == errno.EACCES:
            return f"{where} is not for ordinary users; choose one above 1023"
    return f"cannot listen on {where}: {error.strerror}"


async def _bind_addresses(bind: str | None) -> list[tuple[int, str]]:
    if bind is None or bind.lower().removesuffix(".") == LOCALHOST:
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    if bind == ANY_ADDRESS:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104
    return list(dict.fromkeys((family, address[0]) for family, address in await resolve(bind, 0)))


def _bind_all(
    hosts: Sequence[tuple[int, str]], place: Port, kind: int
) -> tuple[socket.socket, ...]:
    sockets: list[socket.socket] = []
    port = place.number
    try:
        for family, host in hosts:
            try:
                sock = bind(family, kind, host, port)
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


def bind(family: int, kind: int, host: str, port: int) -> socket.socket:
    """Make a socket that clients can reach: it listens if it is one for streams."""
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            # not for datagrams: there it would let two processes have the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
