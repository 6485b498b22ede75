"""The server's part of SOCKS 4, 4a and 5 (RFC 1928), sans-IO: bytes in, bytes and a request out.

Rule 1: nothing is kept of a client but the few hundred bytes that a request can have.
Rule 2: names are not resolved here: the far side does that, as all clients of SOCKS 4a
and `socks5h` expect.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Generator
from typing import Final

import attrs

from muxfs.core.wire import Code
from muxfs.forwards.greeting import Unserved
from muxfs.forwards.spec import SpecError, Target, parse_target

MAX_REQUEST: Final = 1024
"""Bytes of the longest request with all its parts, generously."""
MAX_TEXT: Final = 255
"""Bytes of a name or user id; RFC 1928 has one byte for the length."""

_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_NO_AUTHENTICATION: Final = 0
_NO_METHOD: Final = 0xFF
_SOCKS4_GRANTED: Final = 0x5A
_SOCKS4_REFUSED: Final = 0x5B


class Command(enum.IntEnum):
    """What the client asks for."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


class Reply(enum.IntEnum):
    """How SOCKS 5 is answered (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


_REPLIES: Final = {
    Code.REFUSED: Reply.REFUSED,
    Code.UNREACHABLE: Reply.HOST_UNREACHABLE,
    Code.TIMEOUT: Reply.TTL_EXPIRED,
    Code.RESOLVE: Reply.HOST_UNREACHABLE,
    Code.PROHIBITED: Reply.NOT_ALLOWED,
}


@attrs.frozen
class SocksRequest:
    """What a client asked for."""

    version: int
    command: Command
    target: Target | None
    """None: an association whose client did not say from where it will send."""

    def granted(self, bound: str = "") -> bytes:
        """Return the answer for success. `bound`: the far side's address, as `host:port`."""
        if self.version == 4:
            return bytes([0, _SOCKS4_GRANTED]) + bytes(6)
        return bytes([5, Reply.SUCCEEDED, 0]) + _bound(bound)

    def refused(self, code: Code, _reason: str) -> bytes:
        """Return the answer for a stream that ended with `code`."""
        return self.failed(_REPLIES.get(code, Reply.FAILURE))

    def failed(self, reply: Reply) -> bytes:
        """Return the answer for another failure."""
        return _refusal4() if self.version == 4 else _failure(reply)


class SocksGreeting:
    """One client's way to its request."""

    def __init__(self) -> None:
        self.request: SocksRequest | None = None
        self.rest = b""
        """What the client sent after its request."""
        self._buffer = bytearray()
        self._output = bytearray()
        self._steps = self._negotiate()
        self._wanted = next(self._steps)

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the client; return what to send to it.

        `request` is set when all of it is there. Raises Unserved.
        """
        self._buffer += data
        while self.request is None:
            found = self._take()
            if found is None:
                break
            try:
                self._wanted = self._steps.send(found)
            except Unserved as error:
                error.answer = bytes(self._output) + error.answer
                raise
            except StopIteration as end:
                self.request = end.value
                self.rest = bytes(self._buffer)
        if self.request is None and len(self._buffer) > MAX_REQUEST:
            raise Unserved("the request is too long")
        output = bytes(self._output)
        self._output.clear()
        return output

    def _take(self) -> bytes | None:
        """Take as many bytes as are wanted; 0: up to a zero byte, which is dropped."""
        size = self._wanted
        if size:
            if len(self._buffer) < size:
                return None
            found = bytes(self._buffer[:size])
        else:
            size = self._buffer.find(0, 0, MAX_TEXT + 1) + 1
            if not size:
                if len(self._buffer) > MAX_TEXT:
                    raise Unserved("a text is too long", _refusal4())
                return None
            found = bytes(self._buffer[: size - 1])
        del self._buffer[:size]
        return found

    def _negotiate(self) -> Generator[int, bytes, SocksRequest]:
        (version,) = yield 1
        if version == 4:
            return (yield from self._version4())
        if version == 5:
            return (yield from self._version5())
        raise Unserved(f"the first byte is {version}: this is not SOCKS 4 or 5")

    def _version4(self) -> Generator[int, bytes, SocksRequest]:
        command, high, low, *address = yield 7
        yield 0  # the user id; nothing depends on it
        host = ".".join(map(str, address))
        if address[:3] == [0, 0, 0] and address[3]:
            host = _text((yield 0), _refusal4())  # SOCKS 4a
        if command != Command.CONNECT:
            raise Unserved(f"command {command} is not served", _refusal4())
        target = _target(host, high << 8 | low, _refusal4())
        return SocksRequest(4, Command.CONNECT, target)

    def _version5(self) -> Generator[int, bytes, SocksRequest]:
        (count,) = yield 1
        methods = (yield count) if count else b""
        if _NO_AUTHENTICATION not in methods:
            reason = "the client insists on a method of authentication"
            raise Unserved(reason, bytes([5, _NO_METHOD]))
        self._output += bytes([5, _NO_AUTHENTICATION])
        version, number, _, kind = yield 4
        if version != 5:
            raise Unserved("the request is not SOCKS 5", _failure(Reply.FAILURE))
        host = yield from _address(kind)
        high, low = yield 2
        if number not in {Command.CONNECT, Command.UDP_ASSOCIATE}:
            reason = f"command {number} is not served"
            raise Unserved(reason, _failure(Reply.COMMAND_NOT_SUPPORTED))
        command, port = Command(number), high << 8 | low
        if command is Command.UDP_ASSOCIATE and not port:
            return SocksRequest(5, command, None)
        return SocksRequest(5, command, _target(host, port, _failure(Reply.FAILURE)))


def read_datagram(data: bytes) -> tuple[Target, bytes] | None:
    """Take the header off a client's datagram; None for what is not to be relayed.

    That are fragments (RFC 1928 lets a server drop them) and what is malformed.
    """
    if len(data) < 4 or data[2] != 0:
        return None
    steps = _address(data[3])
    at, host = 4, ""
    try:
        size = next(steps)
        while True:
            if len(data) < at + size:
                return None
            at += size
            size = steps.send(data[at - size : at])
    except StopIteration as end:
        host = end.value
    except Unserved:
        return None
    if len(data) < at + 2:
        return None
    try:
        target = _target(host, int.from_bytes(data[at : at + 2], "big"), b"")
    except Unserved:
        return None
    return target, data[at + 2 :]


def write_datagram(source: Target, payload: bytes) -> bytes:
    """Put the header before a datagram for the client."""
    return bytes(3) + _encoded(source.host, source.port) + payload


def _address(kind: int) -> Generator[int, bytes, str]:
    if kind == _IPV4:
        return str(ipaddress.IPv4Address((yield 4)))
    if kind == _IPV6:
        return str(ipaddress.IPv6Address((yield 16)))
    if kind == _NAME:
        (size,) = yield 1
        if size:
            return _text((yield size), _failure(Reply.FAILURE))
    reason = f"an address of type {kind} is not served"
    raise Unserved(reason, _failure(Reply.ADDRESS_NOT_SUPPORTED))


def _text(data: bytes, answer: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unserved("the name is not UTF-8", answer) from None


def _target(host: str, port: int, answer: bytes) -> Target:
    """Check what the client asked for, with the rules of the command line."""
    try:
        return parse_target(str(Target(host, port)))
    except SpecError as error:
        raise Unserved(str(error), answer) from None


def _failure(reply: Reply) -> bytes:
    return bytes([5, reply, 0]) + _encoded("0.0.0.0", 0)  # noqa: S104


def _refusal4() -> bytes:
    return bytes([0, _SOCKS4_REFUSED]) + bytes(6)


def _bound(text: str) -> bytes:
    """Encode an address that the far side told; one that is not understood as 0.0.0.0:0."""
    try:
        target = parse_target(text)
        ipaddress.ip_address(target.host)
    except ValueError:
        return _encoded("0.0.0.0", 0)  # noqa: S104
    return _encoded(target.host, target.port)


def _encoded(host: str, port: int) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode()
        return bytes([_NAME, len(name)]) + name + port.to_bytes(2, "big")
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes([kind]) + address.packed + port.to_bytes(2, "big")
