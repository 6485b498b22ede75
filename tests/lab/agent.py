"""Runs commands for whoever connects: the part of the lab that lives inside the machines.

    python -m tests.lab.agent ADDRESS:PORT | /path/of/a/socket

One request a connection, in JSON lines. It says either `{"via": ADDRESS}`, and all that
follows goes to the agent there; or `{"argv": [...], "environment": {...}}`.
Then the agent answers `{"pid": N}`, `{"out": TEXT}` and `{"err": TEXT}` (latin-1, so that
every byte comes through) and `{"exit": STATUS}`; the client may send `{"signal": N}`, and
closing the connection kills the command. With `"log": PATH` the command goes to the
background instead, and lives as long as the machine.

At a Unix socket the agent also lives only as long as its standard input is open, or for
good once that has said "stay": nothing is left of a lab whose maker was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import IO, Any

import trio

PORT = 7001
Message = dict[str, Any]


class Connection(trio.abc.AsyncResource):
    """Messages in both directions; an async iterator of what comes, up to the other end's end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""
        self._sending = trio.Lock()

    async def send(self, **message: object) -> None:
        """Send one message; the other end may have gone."""
        # a command's two outputs are sent by two tasks, and trio lets one of them send at a time
        async with self._sending:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Message | None:
        """Return the next message; None at the end."""
        while b"\n" not in self._received:
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class Agent:
    """Serves requests; what it starts in the background it also buries."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        async with Connection(stream) as client:
            request = await client.receive()
            if request is None:
                return
            try:
                if "via" in request:
                    await _relay(client, request["via"])
                elif "log" in request:
                    await self._start(client, request)
                else:
                    await _run(client, request)
            except OSError as error:
                await client.send(error=str(error))

    async def _start(self, client: Connection, request: Message) -> None:
        with _appended(request["log"]) as log:
            process = await _open(request, stdout=log, stderr=log)
        self._nursery.start_soon(process.wait)
        await client.send(pid=process.pid)


def _appended(path: str) -> IO[bytes]:
    return open(path, "ab")


async def _open(request: Message, **options: Any) -> trio.Process:
    return await trio.lowlevel.open_process(
        request["argv"],
        stdin=subprocess.DEVNULL,
        env=os.environ | request.get("environment", {}),
        start_new_session=True,
        **options,
    )


async def _run(client: Connection, request: Message) -> None:
    process = await _open(request, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await client.send(pid=process.pid)

    async def forward(output: trio.abc.ReceiveStream | None, name: str) -> None:
        assert output is not None
        async for data in output:
            await client.send(**{name: data.decode("latin-1")})

    def kill(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    async def obey() -> None:
        async for message in client:
            kill(message["signal"])
        kill(signal.SIGKILL)

    async with trio.open_nursery() as obeying:
        obeying.start_soon(obey)
        async with trio.open_nursery() as forwarding:
            forwarding.start_soon(forward, process.stdout, "out")
            forwarding.start_soon(forward, process.stderr, "err")
            await process.wait()
        obeying.cancel_scope.cancel()
    await client.send(exit=process.returncode)


async def _relay(client: Connection, address: str) -> None:
    """Pass all messages on, until either end closes."""
    async with (
        Connection(await trio.open_tcp_stream(address, PORT)) as far,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            async for message in client:
                await far.send(**message)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        async for answer in far:
            await client.send(**answer)
        nursery.cancel_scope.cancel()


async def _live_with_maker(scope: trio.CancelScope) -> None:
    said = await trio.to_thread.run_sync(sys.stdin.readline)
    if said.strip() != "stay":
        scope.cancel()


async def main(where: str) -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        agent = Agent(nursery)
        if where.startswith("/"):
            nursery.start_soon(_live_with_maker, nursery.cancel_scope)
            with trio.socket.socket(trio.socket.AF_UNIX) as socket:
                await socket.bind(where)
                socket.listen()
                await trio.serve_listeners(agent.serve, [trio.SocketListener(socket)])
        else:
            await trio.serve_tcp(agent.serve, PORT, host=where)


if __name__ == "__main__":
    # a shell has it ignored in what it starts in the background, and our commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trio.run(main, sys.argv[1])
