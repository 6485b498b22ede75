"""The two ends of a tunnel, each on a client of its own, and their traffic."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.e2e.process import Running, Tunnel

from .lab import Client, Lab

TRAFFIC = (sys.executable, "-m", "tests.lab.traffic")


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

    async def serve(self) -> int:
        """Start the service of `traffic`; return its port."""
        process = await self.dialler.start(
            self.nursery, *TRAFFIC, "serve", errors=self.logs / "service.stderr"
        )
        return int(json.loads(await anext(process.stdout))["port"])

    async def up(self, *options: str) -> int:
        """Start the service and both ends, wait until they are connected; return the port."""
        listen, _ = await self.connect(await self.serve(), options=options)
        return await listen.port()

    async def work(
        self, name: str, port: int, *numbers: int, within: float = 120
    ) -> dict[str, Any]:
        """Do one of the works of `traffic` through the tunnel; return its report."""
        arguments = (name, str(port), *map(str, numbers))
        done = await self.listener.run(*TRAFFIC, *arguments, within=within)
        report: dict[str, Any] = json.loads(done.output)
        return report


@contextlib.asynccontextmanager
async def open_ends(lab: Lab, name: str, logs: Path) -> AsyncIterator[Ends]:
    """Give a tunnel with a directory of its own; nothing runs on it after the block."""
    async with trio.open_nursery() as nursery:
        ends = Ends(lab.clients[0].path / name, logs, nursery, lab=lab)
        try:
            yield ends
        finally:
            with trio.CancelScope(shield=True):
                await ends.close()
            nursery.cancel_scope.cancel()
