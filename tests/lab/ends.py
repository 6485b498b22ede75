"""The two ends of a tunnel, each on a client of its own, and their traffic."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.e2e.process import Running, Tunnel

from .lab import Client, Lab
from .remote import Completed, Process


@attrs.frozen
class Work:
    """One of the works of `traffic` while it is done."""

    process: Process
    log: Path
    _said: AsyncIterator[bytes]

    async def says(self) -> Any:
        """Return the next thing that it says."""
        line = b""
        while not line.endswith(b"\n"):
            line += await anext(self._said, b"\n")
        assert line.strip(), f"it ended: {self.log.read_text(errors='replace')}"
        return json.loads(line)

    async def warm(self) -> None:
        """Wait until bytes have come through the tunnel."""
        assert await self.says() == "warm"

    async def report(self) -> dict[str, Any]:
        """Wait for its end, and return what it reports."""
        while not isinstance(said := await self.says(), dict):
            pass
        return said


@attrs.define(eq=False)
class Ends(Tunnel):
    """A tunnel whose listening side runs on client a, and whose dialling side on b."""

    lab: Lab = attrs.field(kw_only=True)

    @property
    def listener(self) -> Client:
        """Where `muxfs listen` and the users of the service run."""
        return self.lab.clients[0]

    @property
    def dialler(self) -> Client:
        """Where `muxfs dial` and the service run."""
        return self.lab.clients[1]

    async def open(self, command: str, argv: list[str], log: Path) -> Running:
        client = self.dialler if command == "dial" else self.listener
        return await client.start(self.nursery, *argv, errors=log)

    async def traffic(self, client: Client, *arguments: str | int) -> Work:
        """Start something of `traffic`."""
        argv = (sys.executable, "-m", "tests.lab.traffic", *map(str, arguments))
        log = self.logs / f"{arguments[0]}.stderr"
        process = await client.start(self.nursery, *argv, errors=log)
        return Work(process, log, aiter(process.stdout))

    async def serve(self) -> int:
        """Start the service of `traffic`; return its port."""
        service = await self.traffic(self.dialler, "serve")
        return int((await service.says())["port"])

    async def up(self, *options: str) -> int:
        """Start the service and both ends, wait until they are connected; return the port."""
        listen, _ = await self.connect(await self.serve(), options=options)
        return await listen.port()

    async def begin(self, work: str, port: int, *numbers: int) -> Work:
        """Start one of the works of `traffic` through the tunnel."""
        return await self.traffic(self.listener, work, port, *numbers)

    async def work(self, work: str, port: int, *numbers: int) -> dict[str, Any]:
        """Do one of the works of `traffic` through the tunnel; return its report."""
        running = await self.begin(work, port, *numbers)
        return await running.report()

    async def open_muxfs(self, client: Client, *arguments: str | Path) -> Process:
        """Start a muxfs command."""
        argv = (sys.executable, "-m", "muxfs", *map(str, arguments))
        log = self.logs / f"{arguments[0]}.stderr"
        return await client.start(self.nursery, *argv, errors=log)

    async def muxfs(
        self, client: Client, *arguments: str | Path, as_user: bool = True
    ) -> Completed:
        """Run a muxfs command that should end by itself; return what it said."""
        argv = (sys.executable, "-m", "muxfs", *map(str, arguments))
        return await client.run(*argv, check=False, within=60, as_user=as_user)

    async def measure(self, work: str, port: int, *numbers: int) -> None:
        """Do a work, and note what it took of time and of the server's operations."""
        before = [await self.lab.operations(client) for client in self.lab.clients]
        report = await self.work(work, port, *numbers)
        for client, start in zip(self.lab.clients, before, strict=True):
            end = await self.lab.operations(client)
            asked = {name: end[name] - start.get(name, 0) for name in end}
            report[f"operations of {client.machine.name}"] = {k: v for k, v in asked.items() if v}
        note({"lab": str(self.lab.spec), "work": work, "numbers": numbers, **report})


def note(report: dict[str, Any]) -> None:
    """Print a report, and append it to the file that MUXFS_LAB_REPORT names."""
    line = json.dumps(report)
    print(line)
    if path := os.environ.get("MUXFS_LAB_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.asynccontextmanager
async def open_ends(
    lab: Lab, directory: Path, logs: Path, kind: type[Ends] = Ends
) -> AsyncIterator[Ends]:
    """Give a tunnel; nothing runs on it after the block."""
    async with trio.open_nursery() as nursery:
        ends = kind(directory, logs, nursery, lab=lab)
        try:
            yield ends
        finally:
            with trio.CancelScope(shield=True):
                await ends.close()
            nursery.cancel_scope.cancel()
