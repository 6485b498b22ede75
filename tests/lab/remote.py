"""The maker's side of `agent`: commands in the lab's machines, from the test's process."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import attrs
import trio

from . import agent

LOST = -signal.SIGKILL
"""Exit status of a command whose machine is gone."""

USER = 1000
"""Who commands run as that are not root's."""
# What may be private to root is the checkout and the interpreter; a file server knows nothing
# of its clients' capabilities.
AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


class LabError(Exception):
    """Something of the lab itself does not work; the text is for people."""


@attrs.frozen
class Completed:
    """How a command ended, and what it has said."""

    status: int
    output: str
    errors: str


@attrs.define(eq=False)
class Process:
    """A command that runs in a machine; used as a `trio.Process` is."""

    pid: int
    """There, not here."""
    stdout: trio.MemoryReceiveChannel[bytes]
    _signals: trio.MemorySendChannel[int]
    _ended: trio.Event = attrs.field(factory=trio.Event)
    returncode: int | None = None

    def send_signal(self, sig: int) -> None:
        """Send a signal to it and its children."""
        if self.returncode is None:
            self._signals.send_nowait(sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end, and return the exit status; negative: the signal that ended it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, status: int) -> None:
        """Note the end."""
        if self.returncode is None:
            self.returncode = status
        self._ended.set()


@attrs.define(eq=False)
class Machine:
    """A place that runs commands: the lab's own namespaces, or one of its guests."""

    name: str
    socket: str
    """Of the agent in the lab's namespaces."""
    address: str | None = None
    """Of a guest, in the lab's network."""
    _connections: WeakSet[agent.Connection] = attrs.field(factory=WeakSet, init=False)

    async def run(
        self, *argv: str, check: bool = True, within: float = 120.0, **options: Any
    ) -> Completed:
        """Run a command to its end. Raises LabError for a failed one, if `check`."""
        output, errors, status = bytearray(), bytearray(), LOST
        with trio.move_on_after(within) as limit:
            connection, _ = await self._open(argv, **options)
            async with connection:
                async for message in connection:
                    output += _bytes(message, "out")
                    errors += _bytes(message, "err")
                    status = message.get("exit", status)
        completed = Completed(
            status, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
        )
        how = f"took longer than {within} s" if limit.cancelled_caught else f"ended with {status}"
        if limit.cancelled_caught or (check and status):
            said = (completed.output + completed.errors).strip()
            raise LabError(f"{self.name}: {' '.join(argv)} {how}: {said}")
        return completed

    async def start(
        self, nursery: trio.Nursery, *argv: str, errors: Path, **options: Any
    ) -> Process:
        """Start a command whose stderr goes to a file; killed when the nursery is cancelled."""
        connection, pid = await self._open(argv, **options)
        output, stdout = trio.open_memory_channel[bytes](1000)
        send_signals, signals = trio.open_memory_channel[int](100)
        process = Process(pid, stdout, send_signals)

        async def pass_signals() -> None:
            async for number in signals:
                await connection.send(signal=number)

        async def follow() -> None:
            status = LOST
            try:
                async with connection, output, trio.open_nursery() as passing:
                    passing.start_soon(pass_signals)
                    with errors.open("wb", buffering=0) as log:
                        async for message in connection:
                            await output.send(_bytes(message, "out"))
                            log.write(_bytes(message, "err"))
                            status = message.get("exit", status)
                    passing.cancel_scope.cancel()
            finally:
                process.end(status)

        nursery.start_soon(follow)
        return process

    async def background(self, *argv: str, log: str, environment: Mapping[str, str]) -> int:
        """Start a command that lives as long as the machine; return its pid there."""
        connection, pid = await self._open(argv, log=log, environment=environment)
        await connection.aclose()
        return pid

    async def answers(self) -> bool:
        """Whether it runs commands."""
        try:
            await self.run("true", within=5)
        except LabError:
            return False
        return True

    async def until_succeeds(self, *argv: str, within: float = 60.0) -> None:
        """Run a command until it succeeds. Raises LabError if it never does."""
        end = trio.current_time() + within
        while True:
            try:
                await self.run(*argv, within=within)
            except LabError as error:
                if trio.current_time() > end:
                    raise LabError(f"{error} (for {within} s)") from error
                await trio.sleep(0.1)
            else:
                return

    async def lose(self) -> None:
        """End all that still waits for it: a killed guest does not tell."""
        for connection in list(self._connections):
            await trio.aclose_forcefully(connection)

    async def _open(
        self, argv: tuple[str, ...], *, as_user: bool = False, **request: object
    ) -> tuple[agent.Connection, int]:
        """Have a command started; return the connection that it depends on, and its pid."""
        try:
            connection = agent.Connection(await trio.open_unix_socket(self.socket))
        except OSError as error:
            raise LabError(f"the lab is not up: {self.socket}: {error.strerror}") from error
        self._connections.add(connection)
        answer: agent.Message | None = None
        try:
            if self.address is not None:
                await connection.send(via=self.address)
            await connection.send(argv=[*AS_USER, *argv] if as_user else argv, **request)
            answer = await connection.receive()
        finally:
            if answer is None or "error" in answer:
                await trio.aclose_forcefully(connection)
        if answer is None or "error" in answer:
            why = answer["error"] if answer else "it does not answer"
            raise LabError(f"{self.name}: {argv[0]}: {why}")
        return connection, answer["pid"]


def _bytes(message: agent.Message, name: str) -> bytes:
    return str(message.get(name, "")).encode("latin-1")
