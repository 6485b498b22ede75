"""What clients of the control socket may ask for, and the answers: docs/control.md."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs
import trio

from muxfs.control.protocol import Malformed, Message
from muxfs.endpoint.client import Client
from muxfs.endpoint.endpoint import ActiveForward, Endpoint
from muxfs.errors import StreamEnded
from muxfs.forwards.events import REFUSALS, NotListening, Refused
from muxfs.forwards.ports import why_not_open
from muxfs.forwards.remote import RemoteListener
from muxfs.forwards.spec import (
    Forward,
    Kind,
    Port,
    SpecError,
    parse_any_target,
    parse_forwards,
)
from muxfs.forwards.splice import End, Transfer
from muxfs.forwards.targets import encode
from muxfs.forwards.tcp import Connection
from muxfs.session import Session

LONGEST_WAIT: Final = 86400.0
"""Seconds that a client may want to wait for a session."""


class _Refusal(Exception):
    """A request that cannot be done: `args` are code and sentence."""


async def answer(endpoint: Endpoint, client: Client, request: Message) -> None:
    """Do what the client asks for, and tell it what came of it. Raises OSError."""
    handler = _HANDLERS.get(str(request.get("request")))
    if handler is None:
        await client.refuse("USAGE", f"the requests are {', '.join(_HANDLERS)}")
        return
    try:
        await client.send({"ok": True, **await handler(endpoint, client, request)})
    except _Refusal as refusal:
        await client.refuse(*refusal.args)
    except SpecError as error:
        await client.refuse("USAGE", str(error))


# Connections


class Program(Connection):
    """The socket of a program whose standard input and output are carried.

    Rule: an end of file proves nothing, since a kill makes one, too. Each direction is
    complete only when its sender said so on the control connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.input_complete = trio.Event()
        self.output_complete = trio.Event()
        self.output_told = trio.Event()
        """The program knows that."""

    async def receive(self, limit: int) -> bytes:
        """Receive; b"" at an end that the program has confirmed."""
        data = await super().receive(limit)
        if not data:
            await self.input_complete.wait()
        return data

    def send_eof(self) -> None:
        """End the sending direction, for `output_complete` to be told."""
        super().send_eof()
        self.output_complete.set()


async def _connect(endpoint: Endpoint, client: Client, request: Message) -> Message:
    target = encode(parse_any_target(_text(request, "target")))
    timeout = _seconds(request, "timeout", endpoint.config.connect_timeout)
    program = Program(_socket(client))
    client.settle()
    outcome: Transfer | Refused | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, client, program, nursery.cancel_scope)
        nursery.start_soon(_tell_end_of_file, client, program)
        outcome = await endpoint.join(program, target, f"stdio of pid {client.pid}", timeout)
        if program.output_complete.is_set():
            await program.output_told.wait()  # before the verdict, with which the program ends
        nursery.cancel_scope.cancel()
    return _verdict(outcome)


def _socket(client: Client) -> socket.socket:
    """Return the socket that came with the request."""
    for descriptor in client.take_descriptors():
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return socket.socket(fileno=descriptor)
        os.close(descriptor)
    raise _Refusal("USAGE", "connect needs a socket, to carry the data")


async def _follow(client: Client, program: Program, scope: trio.CancelScope) -> None:
    """Wait for the word that the input is complete; break off when the client is killed."""
    with contextlib.suppress(OSError, Malformed):
        while await client.receive() == {"event": "eof"}:
            program.input_complete.set()
    scope.cancel()


async def _tell_end_of_file(client: Client, program: Program) -> None:
    await program.output_complete.wait()
    with contextlib.suppress(OSError):  # `_follow` sees that, too
        await client.send({"event": "eof"})
    program.output_told.set()


def _verdict(outcome: Transfer | Refused | None) -> Message:
    match outcome:
        case None:
            raise _Refusal("BROKEN", "the connection was broken off")
        case Refused(code=code, reason=reason):
            raise _Refusal(code.name, reason)
        case Transfer() if outcome.clean:
            return {"sent": outcome.sent, "received": outcome.received}
    cause = outcome.error.__cause__ if outcome.error else None
    if isinstance(cause, StreamEnded) and outcome.down is End.FAILED:
        kept = cause.code in REFUSALS
        raise _Refusal(cause.code.name if kept else "BROKEN", str(cause.strerror))
    if outcome.down is End.CLEAN:
        raise _Refusal("BROKEN", "the far side closed before it had taken everything")
    raise _Refusal("BROKEN", str(outcome.error or "the session with the other side was lost"))


# Forwards


async def _forward(endpoint: Endpoint, _client: Client, request: Message) -> Message:
    added: list[ActiveForward] = []
    try:
        for forward in _forwards(request):
            added += [await _add(endpoint, forward)]
    except BaseException:
        with trio.CancelScope(shield=True):
            for active in added:  # all or nothing
                await endpoint.cancel_forward(active)
        raise
    return {"forwards": [_described(active) for active in added]}


async def _add(endpoint: Endpoint, forward: Forward) -> ActiveForward:
    try:
        active = await endpoint.add_forward(forward)
    except OSError as error:
        raise _Refusal("UNAVAILABLE", why_not_open(forward, error)) from error
    if isinstance(active, RemoteListener):
        # without an answer it goes on to ask, as one from the command line does
        with trio.move_on_after(endpoint.config.connect_timeout):
            await active.answered.wait()
        if isinstance(active.answer, NotListening):
            await endpoint.cancel_forward(active)
            raise _Refusal(active.answer.code.name, active.answer.reason)
    return active


async def _cancel(endpoint: Endpoint, _client: Client, request: Message) -> Message:
    cancelled: list[ActiveForward] = []
    for forward in _forwards(request):
        found = next((f for f in endpoint.forwards if _is(f, forward) and f not in cancelled), None)
        if found is None:
            raise _Refusal("UNKNOWN", f"{forward.option} is not forwarded here")
        cancelled.append(found)
    described = [_described(active) for active in cancelled]
    for active in cancelled:
        await endpoint.cancel_forward(active)
    return {"forwards": described}


def _is(active: ActiveForward, forward: Forward) -> bool:
    """Whether `forward` names that one: by its words, or by the port that it got."""
    names = [active.forward]
    port = active.bound.rpartition(":")[2]  # of a remote one: as the far side said
    if isinstance(active.forward.place, Port) and port.isascii() and port.isdecimal():
        got = attrs.evolve(active.forward.place, number=int(port[:5]))
        names.append(attrs.evolve(active.forward, place=got))
    return forward in names


def _described(active: ActiveForward) -> Message:
    return {"forward": active.forward.option, "bound": active.bound}


# The end itself


async def _status(endpoint: Endpoint, _client: Client, _request: Message) -> Message:
    sessions = endpoint.sessions.by_number.items()
    return {
        "sessions": [_described_session(number, session) for number, session in sessions],
        "forwards": [_described(listener) for listener in endpoint.forwards],
    }


def _described_session(number: int, session: Session) -> Message:
    peer = session.peer
    return {
        "session": number,
        "stats": attrs.asdict(session.stats()),
        "peer": attrs.asdict(peer) if peer is not None else None,
    }


# What requests are made of


def _text(request: Message, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise _Refusal("USAGE", f"{name!r} must be a text")
    return value


def _seconds(request: Message, name: str, default: float) -> float:
    value = request.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= LONGEST_WAIT:
        raise _Refusal("USAGE", f"{name!r} must be seconds from 0 to {LONGEST_WAIT:g}")
    return float(value)


def _forwards(request: Message) -> list[Forward]:
    """Parse a list of texts such as `-L 8888:localhost:8888`. Raises SpecError."""
    texts = request.get("forwards")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _Refusal("USAGE", "'forwards' must be a list of texts")
    forwards: list[Forward] = []
    for text in texts:
        option, _, spec = text.partition(" ")
        if option not in _OPTIONS:
            raise _Refusal("USAGE", f"{option!r} is none of {', '.join(_OPTIONS)}")
        forwards += parse_forwards(spec, Kind(option))
    return forwards


_OPTIONS: Final = tuple(kind.value for kind in Kind)
_Handler: TypeAlias = Callable[[Endpoint, Client, Message], Awaitable[Message]]
_HANDLERS: Final[dict[str, _Handler]] = {
    "connect": _connect,
    "forward": _forward,
    "cancel": _cancel,
    "status": _status,
}
