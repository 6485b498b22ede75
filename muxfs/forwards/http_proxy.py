"""The server's part of an HTTP proxy that serves CONNECT (RFC 9110, 9.3.6), sans-IO.

Other requests are answered with 405: to pass them on one would have to follow every
request and response of the connection, and a tunnel does not read what it carries.
"""

from __future__ import annotations

from typing import Final

import attrs
import h11

from muxfs.core.wire import Code
from muxfs.errors import printable
from muxfs.forwards.greeting import Unserved
from muxfs.forwards.spec import SpecError, Target, parse_target

MAX_HEAD: Final = 16 << 10
"""Bytes of the longest request with its header."""

_STATUSES: Final = {
    Code.REFUSED: 502,
    Code.UNREACHABLE: 502,
    Code.RESOLVE: 502,
    Code.TIMEOUT: 504,
    Code.PROHIBITED: 403,
    Code.LIMIT: 503,
}
_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@attrs.frozen
class HttpRequest:
    """A CONNECT."""

    target: Target

    def granted(self, _bound: str = "") -> bytes:
        """Return the answer for success."""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refused(self, code: Code, reason: str) -> bytes:
        """Return the answer for a stream that ended with `code`."""
        return _answer(_STATUSES.get(code, 502), reason or code.name)


class HttpGreeting:
    """One client's way to its request."""

    def __init__(self) -> None:
        self.request: HttpRequest | None = None
        self.rest = b""
        """What the client sent after its request."""
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the client; nothing is to be sent yet. Raises Unserved."""
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if error.error_status_hint in _PHRASES else 400
            reason = str(error).partition(": bytearray(")[0]  # what the client said, as Python
            raise Unserved(reason, _answer(status, reason)) from None
        if isinstance(event, h11.Request):
            self.request = HttpRequest(_target(event))
            self.rest = self._parser.trailing_data[0]
        return b""


def _target(request: h11.Request) -> Target:
    method = request.method.decode("ascii", "replace")
    if request.method != b"CONNECT":
        reason = (
            f"{method}: this proxy serves CONNECT only, which is what clients use for https; "
            "for http use the SOCKS proxy (-D), or let the client tunnel (curl --proxytunnel)"
        )
        raise Unserved(reason, _answer(405, reason, "Allow: CONNECT\r\n"))
    text = request.target.decode("ascii", "replace")
    reason = f"{text!r} is not HOST:PORT"
    if ":" in text:
        try:
            return parse_target(text)
        except SpecError as error:
            reason = str(error)
    raise Unserved(reason, _answer(400, reason))


def _answer(status: int, reason: str, header: str = "") -> bytes:
    body = f"muxfs: {printable(reason)}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nConnection: close\r\n{header}"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
