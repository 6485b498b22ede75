"""muxfs on the hosts of the cluster, watched through its JSON lines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio

from tests.e2e.process import Side, Tunnel
from tests.lab.remote import Process

from .host import USER, Host


@attrs.define(eq=False)
class Commands:
    """Starts commands on hosts; none outlives its test."""

    nursery: trio.Nursery
    logs: Path
    sides: list[Side] = attrs.field(factory=list)

    async def muxfs(self, host: Host, *words: str, user: str = USER) -> Side:
        """Start `muxfs WORDS... --json` and follow what it says."""
        name = f"{words[0]}-{len(self.sides)} on {host.name}"
        log = self.logs / f"{name}.stderr"
        argv = ("muxfs", words[0], "--json", *words[1:])
        process = await host.start(self.nursery, *argv, errors=log, user=user)
        side = Side(name, process, log)
        self.sides.append(side)
        self.nursery.start_soon(side.follow)
        return side

    async def start(self, host: Host, *argv: str, user: str = USER) -> Process:
        """Start any command; its words go to the test's output."""
        log = self.logs / f"{Path(argv[0]).name}-{trio.current_time()}"
        return await host.start(self.nursery, *argv, errors=log, user=user)

    async def close(self) -> None:
        """End what still runs, and print what all have said."""
        await Tunnel(self.logs, self.logs, self.nursery, sides=self.sides).close()


@contextlib.asynccontextmanager
async def open_commands(logs: Path) -> AsyncIterator[Commands]:
    """Give the means to start commands; they are killed at the end of the block."""
    async with trio.open_nursery() as nursery:
        commands = Commands(nursery, logs)
        try:
            yield commands
        finally:
            with trio.CancelScope(shield=True):
                await commands.close()
            nursery.cancel_scope.cancel()
