"""Streams that the far side has not answered yet: how long they wait, and for whom.

The far side bounds its dialling by itself. The bound here is for one that is silent, or takes
longer than this side's clients are to wait. And a client that has left is noticed, since it
would hold one of the far side's dials until that is over.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.forwards import owner
from muxfs.stream import MuxStream

GRACE: Final = 10.0
"""Seconds beyond the connect timeout that an answer has: the far side's own may be as long."""
LOOK: Final = 1.0
"""Seconds between looks at who waits."""


@attrs.define(eq=False)
class Awaited:
    """A client that waits for the answer to its stream."""

    stream: MuxStream
    client: socket.socket
    patience: float
    """Seconds."""
    owes: Callable[[], bool]
    """Whether something that the client sent is still to be delivered, also if it has left."""
    end: Callable[[], object]
    """Ends the waiting."""
    deadline: float = attrs.field(init=False)
    given_up: tuple[Code, str] | None = attrs.field(default=None, init=False)
    """Why it was ended."""

    def __attrs_post_init__(self) -> None:
        self.deadline = trio.current_time() + self.patience

    def look(self) -> None:
        """End the waiting if it is in vain."""
        if trio.current_time() >= self.deadline:
            words = f"no answer of the other side within {self.patience:g} s"
            self.given_up = Code.TIMEOUT, words
        elif not self.owes() and owner.has_left(self.client):
            self.given_up = Code.CANCELLED, "the client has left"
        if self.given_up:
            self.end()


class Answers:
    """All clients of one end that wait."""

    def __init__(self) -> None:
        self._awaited: set[Awaited] = set()
        self._some = trio.Event()

    @contextmanager
    def awaited(
        self,
        stream: MuxStream,
        client: socket.socket,
        timeout: float,
        owes: Callable[[], bool],
        end: Callable[[], object],
    ) -> Iterator[Awaited]:
        """Call `end` if nobody waits any more, or for too long: then `given_up` says why.

        timeout: seconds that the far side's target may take to answer.
        """
        awaited = Awaited(stream, client, timeout + GRACE, owes, end)
        if not stream.answered:
            self._awaited.add(awaited)
            self._some.set()
        try:
            yield awaited
        finally:
            self._awaited.discard(awaited)

    async def watch(self) -> NoReturn:
        """Look at them now and then, until cancelled."""
        while True:
            await self._some.wait()
            while self._awaited:
                await trio.sleep(LOOK)
                for awaited in list(self._awaited):
                    if awaited.stream.answered:
                        self._awaited.discard(awaited)
                    else:
                        awaited.look()
            self._some = trio.Event()
