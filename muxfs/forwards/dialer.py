"""The side where the services are: take incoming streams and dial their targets.

Rule 1: only what a `Policy` allows is dialled; it is asked before any name is resolved.
Rule 2: each stream ends in ACCEPT or in a refusal that says why, in time.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.errors import printable
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.events import Refused
from muxfs.forwards.spec import LOCALHOST, SpecError, Target, loopback_alike, parse_target
from muxfs.forwards.tcp import Connection
from muxfs.stream import MuxStream

MAX_DIALS: Final = 128
"""Targets that are dialled at once; more wait. Well below the usual 1024 descriptors."""

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
}
# With several addresses of a name, the error that says most is told.
_TELLING: Final = (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)


@attrs.frozen
class Refusal:
    """Why a target was not reached, as it is told to the far side."""

    code: Code
    reason: str


@attrs.frozen
class Policy:
    """What this side is willing to dial."""

    targets: tuple[Target, ...] = ()
    any_local_port: bool = False

    def refusal(self, target: Target) -> Refusal | None:
        """Return None for a target that is allowed; else what to tell."""
        host = loopback_alike(target.host)
        if self.any_local_port and host == LOCALHOST:
            return None
        if any(t.port == target.port and loopback_alike(t.host) == host for t in self.targets):
            return None
        if not self.targets and not self.any_local_port:
            return Refusal(Code.PROHIBITED, f"{target}: this side dials nothing")
        hint = f"add {target.short} to the TARGETs of muxfs dial"
        return Refusal(Code.PROHIBITED, f"{target}: not allowed on this side; {hint}")


async def serve_streams(carrier: Carrier, policy: Policy, *, connect_timeout: float) -> None:
    """Take streams of the far side and carry each to its target, until cancelled.

    connect_timeout: seconds that a target may take to answer.
    """
    limiter = trio.CapacityLimiter(MAX_DIALS)
    listener = carrier.session.listen(auto_accept=False)
    async with listener, trio.open_nursery() as nursery:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return  # the session is over for good, and tells its owner itself
            nursery.start_soon(_serve, carrier, stream, policy, limiter, connect_timeout)


async def _serve(
    carrier: Carrier,
    stream: MuxStream,
    policy: Policy,
    limiter: trio.CapacityLimiter,
    connect_timeout: float,
) -> None:
    if carrier.full:
        refusal = explain_errno(printable(stream.target), errno.EMFILE)
        await _refuse(carrier, stream, refusal)
        return
    carrier.connections += 1
    try:
        await _dial_and_carry(carrier, stream, policy, limiter, connect_timeout)
    finally:
        carrier.connections -= 1


async def _dial_and_carry(
    carrier: Carrier,
    stream: MuxStream,
    policy: Policy,
    limiter: trio.CapacityLimiter,
    connect_timeout: float,
) -> None:
    try:
        async with limiter:
            found = await _reach(stream.target, policy, connect_timeout)
        if isinstance(found, Refusal):
            await _refuse(carrier, stream, found)
            return
    except BaseException:
        with trio.CancelScope(shield=True):
            await stream.abort()
        raise
    try:
        await stream.accept(found.local)
    except BaseException:
        found.reset()
        with trio.CancelScope(shield=True):
            await stream.abort()
        raise
    await carrier.carry(found, stream, printable(stream.originator))


async def _refuse(carrier: Carrier, stream: MuxStream, why: Refusal) -> None:
    originator, target = printable(stream.originator), printable(stream.target)
    carrier.report(Refused(originator, target, why.code, printable(why.reason)))
    await stream.refuse(why.code, why.reason)


async def _reach(text: str, policy: Policy, connect_timeout: float) -> Connection | Refusal:
    try:
        target = parse_target(text)
    except SpecError as error:
        return Refusal(Code.PROHIBITED, str(error))
    return policy.refusal(target) or await dial(target, connect_timeout)


async def dial(target: Target, connect_timeout: float) -> Connection | Refusal:
    """Connect to a target: all its addresses, the next one after a short while."""
    with trio.move_on_after(connect_timeout):
        try:
            return await _connect(target)
        except OSError as error:
            return explain(target, error)
    why = f"no answer within {connect_timeout:g} s"
    return Refusal(Code.TIMEOUT, f"ETIMEDOUT {target}: {why}")


async def _connect(target: Target) -> Connection:
    # RFC 6761: localhost is the loopback. Asking the resolver takes longer than connecting.
    hosts = _LOOPBACK if target.host.casefold() == LOCALHOST else (target.host,)
    errors: list[OSError] = []
    for host in hosts:
        try:
            connection = Connection.of_stream(await trio.open_tcp_stream(host, target.port))
        except OSError as error:
            errors.append(error)
            continue
        if connection.local != connection.peer:
            return connection
        # The kernel picked the target's port for our end and connected us to ourselves.
        connection.reset()
    # a host without IPv6 has another error for ::1 than the one that says why
    if errors:
        raise min(errors, key=lambda error: min(map(_telling, _causes(error)), default=0))
    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def explain(target: Target, error: OSError) -> Refusal:
    """Put a failed connect into words."""
    number = 0
    for cause in sorted(_causes(error), key=_telling):
        if isinstance(cause, socket.gaierror):
            return Refusal(Code.RESOLVE, f"{target}: this name is unknown ({cause.strerror})")
        number = cause.errno or 0
        break
    return explain_errno(str(target), number)


def explain_errno(target: str, number: int) -> Refusal:
    """Put an errno of a connect into words."""
    code, text = _ERRORS.get(number, (Code.INTERNAL, os.strerror(number)))
    return Refusal(code, f"{errno.errorcode.get(number, 'error')} {target}: {text}")


def _telling(error: OSError) -> int:
    number = error.errno
    return _TELLING.index(number) if number in _TELLING else len(_TELLING)


def _causes(error: BaseException) -> Iterator[OSError]:
    """Find the errors of single addresses inside of the one that trio raises for all."""
    match error:
        case BaseExceptionGroup(exceptions=inner):
            for one in inner:
                yield from _causes(one)
        case OSError(errno=int()):
            yield error
        case OSError(__cause__=BaseException() as cause):
            yield from _causes(cause)
