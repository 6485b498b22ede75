"""The muxfs commands as real processes, watched through their JSON lines.

Nothing here sleeps for luck: a test waits for an event that a process prints, and fails
with that process's own words when the event does not come.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest
import trio

EVENT_TIMEOUT = 60.0
"""Seconds; virtual machines of CI were seen to stand still for 26 of them."""
also_sealed = pytest.mark.parametrize("options", ["plain", "sealed"], indirect=True)
"""Runs a test once more, with a key on both sides."""
CLEAN_EXITS = (0, 128 + signal.SIGTERM)

Event = dict[str, Any]


class Running(Protocol):
    """A process, here (trio.Process) or on another machine."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdout(self) -> AsyncIterable[bytes | bytearray] | None: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


@attrs.define(eq=False)
class Side:
    """One running `muxfs listen` or `muxfs dial`."""

    name: str
    process: Running
    log: Path
    events: list[Event] = attrs.field(factory=list)
    ended: bool = False
    _news: trio.Event = attrs.field(factory=trio.Event)

    async def follow(self) -> None:
        """Read the process's JSON lines until it closes its standard output."""
        rest = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.events.append(json.loads(line))
            self._tell()
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def event(self, name: str, *, after: int = 0, within: float = EVENT_TIMEOUT) -> Event:
        """Wait for the first event `name`, not counting the first `after` events."""
        with trio.move_on_after(within):
            while True:
                for event in self.events[after:]:
                    if event["event"] == name:
                        return event
                assert not self.ended, f"{self.name} ended without {name!r}: {self.describe()}"
                await self._news.wait()
        raise AssertionError(f"no {name!r} in {within} s from {self.name}: {self.describe()}")

    async def port(self) -> int:
        """Return the local port of the first forward."""
        return int((await self.event("listening"))["port"])

    def ports(self) -> list[int]:
        """Return the local ports of all forwards, once the side listens."""
        return [int(event["port"]) for event in self.events if event["event"] == "listening"]

    def kill(self) -> None:
        """End it as the kernel's OOM killer would: nothing is flushed, nobody is told."""
        self.process.kill()

    async def terminate(self) -> int:
        """Ask it to end (SIGTERM); return its exit status."""
        self.process.terminate()
        with trio.fail_after(EVENT_TIMEOUT):
            return await self.process.wait()

    def resident(self) -> int:
        """Return the bytes of memory that the process occupies."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def describe(self) -> str:
        """All that the process has said, for the report of a failed test."""
        events = "".join(f"\n    {event}" for event in self.events) or " none"
        errors = self.log.read_text(errors="replace").rstrip().replace("\n", "\n    ")
        return (
            f"exit status {self.process.returncode}\n  events:{events}\n  stderr:\n    {errors}\n"
        )


@attrs.define(eq=False)
class Tunnel:
    """A tunnel's directory, and the processes that a test starts on it."""

    directory: Path
    logs: Path
    nursery: trio.Nursery
    options: Sequence[str] = ()
    """Of both commands."""
    sides: list[Side] = attrs.field(factory=list)

    async def run(self, command: str, *arguments: str) -> Side:
        """Start `muxfs COMMAND DIRECTORY ARGUMENTS... --json` and follow what it says."""
        words = [command, str(self.directory), *arguments, *self.options, "--json"]
        return await self.start(command, words)

    async def start(self, command: str, words: Sequence[str]) -> Side:
        """Start `muxfs WORDS...`, which give JSON lines, and follow what it says."""
        name = f"{command}-{len(self.sides)}"
        log = self.logs / f"{name}.stderr"
        argv = [sys.executable, "-m", "muxfs", *words]
        side = Side(name, await self.open(command, argv, log), log)
        self.sides.append(side)
        self.nursery.start_soon(side.follow)
        return side

    async def open(self, command: str, argv: list[str], log: Path) -> Running:
        """Start a process whose stderr goes to `log`."""
        with log.open("wb") as stderr:
            return await trio.lowlevel.open_process(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )

    async def listen(self, *targets: int, options: Sequence[str] = ()) -> Side:
        """Start the listening side with a forward to each of the `targets` at localhost."""
        return await self.run("listen", *(f"0:localhost:{port}" for port in targets), *options)

    async def dial(self, *options: str) -> Side:
        """Start the dialling side."""
        return await self.run("dial", *options)

    async def connect(self, *targets: int, options: Sequence[str] = ()) -> tuple[Side, Side]:
        """Start both sides and wait until each has seen the other."""
        listen = await self.listen(*targets, options=options)
        dial = await self.dial(*options)
        for side in (listen, dial):
            await side.event("established")
        return listen, dial

    def mailbox(self, role: str) -> Path:
        """Return the mailbox file that `role` writes."""
        (path,) = self.directory.rglob(f"{role}.mbx")
        return path

    async def close(self) -> None:
        """End what still runs, and print what all have said (pytest shows it on failure)."""
        for side in self.sides:
            with contextlib.suppress(ProcessLookupError):
                side.process.terminate()
        with trio.move_on_after(10):
            for side in self.sides:
                await side.process.wait()
        for side in self.sides:
            if side.process.returncode is None:
                side.kill()
                await side.process.wait()
            print(f"{side.name}: {side.describe()}")


@contextlib.asynccontextmanager
async def open_tunnel(directory: Path, logs: Path) -> AsyncIterator[Tunnel]:
    """Give a tunnel whose processes do not outlive the block."""
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(directory, logs, nursery)
        try:
            yield tunnel
        finally:
            with trio.CancelScope(shield=True):
                await tunnel.close()
