"""The control socket of an end that runs: who may ask, and how many.

Rule 1: a client that never finishes its request holds one of `MAX_ASKING` places, for
`HELLO_TIME`; what it may send meanwhile is bounded.
Rule 2: the end goes on without a control socket where no private directory can be had.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Final

import trio

from muxfs.blocking import in_thread
from muxfs.control import protocol
from muxfs.control.place import Place, Unsafe
from muxfs.endpoint.client import Client
from muxfs.endpoint.endpoint import Endpoint
from muxfs.endpoint.requests import answer
from muxfs.forwards.listener import OVERLOAD, OVERLOAD_NAP
from muxfs.storage.choices import Kind
from muxfs.storage.filesystem import find_filesystem

MAX_ASKING: Final = 64
"""Clients at once whose request is not complete, or is being answered; more wait."""
LOOK: Final = 10.0
"""Seconds between looks whether the socket is still there: cleaners of /tmp, and logind."""
LOOKS_FOR_IDLE: Final = 8


class Control:
    """Serves an endpoint's control socket."""

    def __init__(self, endpoint: Endpoint, tunnel: str) -> None:
        """tunnel: the real path of its directory."""
        self._endpoint = endpoint
        self._tunnel = tunnel
        self._asking = trio.Semaphore(MAX_ASKING)
        self._clients = 0
        self._clients_seen = 0
        self._place: Place | None = None
        self._hello = {
            "muxfs": protocol.VERSION,
            "pid": os.getpid(),
            "role": endpoint.config.role,
            "tunnel": tunnel,
        }

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started` once clients can connect. Raises Unsafe, OSError."""
        self._place = await self._take()
        try:
            task_status.started()
            async with trio.open_nursery() as clients:
                while True:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._accept, self._place.listener, clients)
                        newer = await self._replacement(self._place)
                        nursery.cancel_scope.cancel()
                    self._place.leave()
                    self._place = newer
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._place is not None:
            trio.lowlevel.notify_closing(self._place.listener)
            self._place.leave()
            self._place = None

    async def leave_when_idle(self, patience: float) -> None:
        """Wait until there was no connection for `patience` seconds; then take no more clients.

        Looks eight times in this time, so that it may be longer by an eighth.
        """
        quiet, last = 0, (-1, -1)
        while True:
            await trio.sleep(patience / LOOKS_FOR_IDLE)
            seen = self._clients_seen, self._endpoint.streams_seen
            quiet = 0 if self._in_use or seen != last else quiet + 1
            last = seen
            # nothing happens between this look and the end of the socket
            if quiet >= LOOKS_FOR_IDLE and not self._in_use:
                self._leave()
                return

    @property
    def _in_use(self) -> bool:
        if self._clients or self._endpoint.busy:
            return True
        return self._place is not None and _is_readable(self._place.listener)

    async def _take(self) -> Place:
        def take() -> Place:
            return Place.take(self._tunnel, self._endpoint.config.role, _is_local)

        with trio.CancelScope(shield=True):  # what was made is removed again
            place = await in_thread(take)
        return place  # noqa: RET504  (to mypy a scope may swallow what is raised in it)

    async def _replacement(self, place: Place) -> Place:
        """Wait until the socket was removed, and another one could be made."""
        while True:
            await trio.sleep(LOOK)
            if place.lost:
                with contextlib.suppress(Unsafe, OSError):
                    return await self._take()

    async def _accept(self, listener: socket.socket, clients: trio.Nursery) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(listener)
            except trio.ClosedResourceError:
                return
            await self._asking.acquire()
            try:
                sock, _ = listener.accept()
            except OSError as error:
                self._asking.release()
                if error.errno in OVERLOAD:
                    await trio.sleep(OVERLOAD_NAP)
                continue
            clients.start_soon(self._serve, Client(sock, self._asking.release))

    async def _serve(self, client: Client) -> None:
        self._clients += 1
        self._clients_seen += 1
        try:
            with client, contextlib.suppress(OSError):
                await self._talk(client)
        finally:
            self._clients -= 1

    async def _talk(self, client: Client) -> None:
        if client.uid != os.geteuid():
            await client.refuse("PROHIBITED", "this muxfs runs for another user")
            return
        with trio.move_on_after(protocol.HELLO_TIME) as patience:
            await client.send(self._hello)
            try:
                request = await client.receive()
            except protocol.Malformed as error:
                await client.refuse("USAGE", str(error))
                return
        if not patience.cancelled_caught and request is not None:
            await answer(self._endpoint, client, request)


def _is_readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _is_local(path: str) -> bool:
    return find_filesystem(path).kind is not Kind.NETWORK
