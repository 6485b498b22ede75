"""What the proxies have in common: a client says first where it wants to go, sans-IO."""

from __future__ import annotations

from typing import Protocol

from muxfs.core.wire import Code
from muxfs.forwards.spec import Target


class Unserved(Exception):
    """What a client said is not understood or not served; `answer` goes to it before the end."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class Request(Protocol):
    """What a client asked for, and how it is answered."""

    @property
    def target(self) -> Target | None:
        """Where it wants to go."""

    def granted(self, bound: str = "") -> bytes:
        """Return the answer for success. `bound`: the far side's address, as `host:port`."""

    def refused(self, code: Code, reason: str, /) -> bytes:
        """Return the answer for a stream that ended with `code` instead."""


class Greeting(Protocol):
    """One client's way to its request."""

    @property
    def request(self) -> Request | None:
        """What it asked for, once all of that is there."""

    @property
    def rest(self) -> bytes:
        """What it sent after that."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the client; return what to send to it. Raises Unserved."""
