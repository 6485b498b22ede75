"""Connecting to targets: resolving, the policy's word on each address, errors in words."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

import trio

from muxfs.blocking import in_thread
from muxfs.core.wire import Code
from muxfs.forwards.consent import Policy, Refusal
from muxfs.forwards.names import Address, resolve
from muxfs.forwards.patterns import parse_address
from muxfs.forwards.spec import LOCALHOST, AnyTarget, Target, UnixPath
from muxfs.forwards.tcp import Connection, reset_on_close

STAGGER: Final = 0.25
"""Seconds until the next address of a name is tried beside the one before (RFC 8305)."""
BACKLOG_NAP: Final = 0.02
"""Seconds until a Unix socket with a full backlog is tried again."""

_LOOPBACK: Final = ("127.0.0.1", "::1")

_ERRORS: Final[dict[int, tuple[Code, str]]] = {
    errno.ECONNREFUSED: (Code.REFUSED, "nothing is listening there"),
    errno.ECONNRESET: (Code.REFUSED, "the connection was reset at once"),
    errno.EHOSTUNREACH: (Code.UNREACHABLE, "no route to that host"),
    errno.ENETUNREACH: (Code.UNREACHABLE, "no route to that network"),
    errno.EHOSTDOWN: (Code.UNREACHABLE, "that host is down"),
    errno.EADDRNOTAVAIL: (Code.UNREACHABLE, "no usable address or local port"),
    errno.EAFNOSUPPORT: (Code.UNREACHABLE, "this host has no address of that family"),
    errno.EACCES: (Code.UNREACHABLE, "a firewall forbids it"),
    errno.EPERM: (Code.UNREACHABLE, "a firewall forbids it"),
    errno.ETIMEDOUT: (Code.TIMEOUT, "no answer"),
    errno.EMFILE: (Code.LIMIT, "this process has too many open files (see ulimit -n)"),
    errno.ENFILE: (Code.LIMIT, "this host has too many open files"),
    errno.ENOBUFS: (Code.LIMIT, "this host is out of network buffers"),
    errno.ENOMEM: (Code.LIMIT, "this host is out of memory"),
    errno.EAGAIN: (Code.LIMIT, "this user may have no more threads (see ulimit -u)"),
}
_UNIX_ERRORS: Final[dict[int, tuple[Code, str]]] = {
    errno.ENOENT: (Code.REFUSED, "there is no such socket"),
    errno.EACCES: (Code.UNREACHABLE, "the socket is not for this user"),
    errno.EPROTOTYPE: (Code.REFUSED, "it is not a stream socket"),
}
# With several addresses of a name, the error that says most is told.
_TELLING: Final = (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)


async def dial(
    target: AnyTarget, policy: Policy, connect_timeout: float, begun: socket.socket | None = None
) -> Connection | Refusal:
    """Connect to a target that the policy allows: all its addresses, staggered.

    connect_timeout: seconds that resolving and connecting may take together. begun: what
    `dial_loopback` has begun; the caller closes it, if that is still to be done.
    """
    if refusal := policy.refusal(target):
        return refusal
    with trio.move_on_after(connect_timeout):
        try:
            if isinstance(target, UnixPath):
                return await _connect_unix(target)
            addresses = await _resolve(target, policy, socket.SOCK_STREAM)
            if isinstance(addresses, Refusal):
                return addresses
            return await _connect_first(addresses, begun)
        except OSError as error:
            return explain(target, error)
    return _too_late(target, connect_timeout)


def dial_loopback(target: AnyTarget, policy: Policy) -> Connection | socket.socket | None:
    """Connect to a port of this host without waiting: the kernel has done it when it returns.

    A bare socket where it has not, being busy: for `dial` to go on with, since beside another
    one it may become a second connection to the server. None where that cannot be, or fails:
    `dial` tries again, and finds the words, with three tasks more.
    """
    if not isinstance(target, Target) or policy.refusal(target):
        return None
    host = _LOOPBACK[0] if _is_home(target) else target.host
    if host not in _LOOPBACK or not policy.allows(target, parse_address(host)):
        return None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # a host without IPv6; no descriptors
        return None
    try:
        sock.setblocking(False)
        reset_on_close(sock, True)
        address = (host, target.port)
        number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            number = sock.connect_ex(address)
            if number in {errno.EINPROGRESS, errno.EALREADY}:
                return sock
        if not number and sock.getsockname() != sock.getpeername():
            reset_on_close(sock, False)
            return Connection(sock)
    except OSError:
        pass
    sock.close()
    return None


async def open_datagrams(
    target: Target, policy: Policy, connect_timeout: float
) -> socket.socket | Refusal:
    """Make a UDP socket that is connected to a target that the policy allows."""
    if refusal := policy.refusal(target):
        return refusal
    with trio.move_on_after(connect_timeout):
        try:
            addresses = await _resolve(target, policy, socket.SOCK_DGRAM)
            if isinstance(addresses, Refusal):
                return addresses
            return _connect_datagrams(addresses)
        except OSError as error:
            return explain(target, error)
    return _too_late(target, connect_timeout)


def _too_late(target: AnyTarget, connect_timeout: float) -> Refusal:
    why = f"no answer within {connect_timeout:g} s"
    return Refusal(Code.TIMEOUT, f"ETIMEDOUT {target}: {why}")


async def _resolve(target: Target, policy: Policy, kind: int) -> list[Address] | Refusal:
    """Find the addresses of a target, and keep those that the policy allows."""
    hosts = _LOOPBACK if _is_home(target) else (target.host,)
    found = [address for host in hosts for address in await resolve(host, target.port, kind)]
    # dialled is what was asked about, not what the name resolves to a moment later
    allowed = [address for address in found if policy.allows(target, parse_address(address[1][0]))]
    if allowed:
        return _both_families_first(allowed)
    return policy.no_address(target, parse_address(found[0][1][0]))


def _is_home(target: Target) -> bool:
    # RFC 6761: localhost is the loopback. Asking the resolver takes longer than connecting.
    return target.host.lower().removesuffix(".") == LOCALHOST


def _both_families_first(addresses: list[Address]) -> list[Address]:
    """Move the first address of the other family to the second place (RFC 8305, section 4)."""
    for at, (family, _) in enumerate(addresses):
        if family != addresses[0][0]:
            addresses.insert(1, addresses.pop(at))
            break
    return addresses


async def _connect_first(
    addresses: Sequence[Address], begun: socket.socket | None = None
) -> Connection:
    """Connect to the address that answers first. Raises OSError with the most telling error.

    begun: a socket that is connecting to the first address already.
    """
    errors: list[OSError] = []
    connected: list[Connection] = []

    async def attempt(address: Address, failed: trio.Event, begun: socket.socket | None) -> None:
        try:
            connection = await _connect(*address, begun)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if connected:
            connection.reset()  # two at the same moment
        connected.append(connection)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed, begun)
                begun = None
                with trio.move_on_after(STAGGER):
                    await failed.wait()
    except BaseException:  # too late, or not wanted any more, at the moment that it connected
        for connection in connected:
            connection.reset()
        raise
    if connected:
        return connected[0]
    # a host without IPv6 has another error for ::1 than the one that says why
    raise min(errors, key=_telling)


async def _connect(
    family: int, address: tuple[str, int], begun: socket.socket | None = None
) -> Connection:
    if begun is None:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
    else:
        sock = trio.socket.from_stdlib_socket(begun)
    try:
        # Given up on the way it may be connected already: a server must not take that for a
        # client that sent nothing, and finished.
        reset_on_close(sock, True)
        if begun is None:
            await sock.connect(address)
        else:
            await trio.lowlevel.wait_writable(begun)
            if number := begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))  # noqa: TRY301
        connection = Connection.of_stream(trio.SocketStream(sock))
        reset_on_close(connection.sock, False)
    except BaseException:
        sock.close()
        raise
    if connection.local == connection.peer:
        # the kernel picked the target's port for our end and connected us to ourselves
        connection.reset()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return connection


async def _connect_unix(target: UnixPath) -> Connection:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect() -> bool:
        try:
            sock.connect(target.path)
        except BlockingIOError:
            return False
        return True

    try:
        sock.setblocking(False)
        # in a thread, since the path may lead into a filesystem that hangs
        while True:
            if await in_thread(connect):
                return Connection(sock)
            # its backlog is full, and nothing tells when it is not: unlike TCP's
            await trio.sleep(BACKLOG_NAP)
    except BaseException:
        sock.close()
        raise


def _connect_datagrams(addresses: Sequence[Address]) -> socket.socket:
    """Connect to the first address that this host has a route to. Raises OSError."""
    errors: list[OSError] = []
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(address)
        except OSError as error:
            sock.close()
            errors.append(error)
        else:
            return sock
    raise min(errors, key=_telling)


def explain(target: AnyTarget, error: OSError) -> Refusal:
    """Put a failed connect into words."""
    if isinstance(error, socket.gaierror):
        return Refusal(Code.RESOLVE, f"{target}: this name is unknown ({error.strerror})")
    number = error.errno or 0
    if isinstance(target, UnixPath) and number in _UNIX_ERRORS:
        code, text = _UNIX_ERRORS[number]
        return Refusal(code, f"{errno.errorcode[number]} {target}: {text}")
    return explain_errno(str(target), number)


def explain_errno(target: str, number: int) -> Refusal:
    """Put an errno of a connect into words."""
    code, text = _ERRORS.get(number, (Code.INTERNAL, os.strerror(number)))
    return Refusal(code, f"{errno.errorcode.get(number, 'error')} {target}: {text}")


def _telling(error: OSError) -> int:
    number = error.errno
    return _TELLING.index(number) if number in _TELLING else len(_TELLING)
