"""The part of the lab that runs commands inside the machines; needs no lab."""

from __future__ import annotations

import trio

from .agent import Agent, Connection

LINES = 50
ALTERNATELY = f"for i in $(seq {LINES}); do echo a; echo b >&2; done"


async def test_both_outputs_of_a_command_at_once() -> None:
    """What they say arrives, however it falls together; the agent serves on."""
    ours, theirs = trio.socket.socketpair()
    said = {"out": "", "err": ""}
    async with trio.open_nursery() as nursery, Connection(trio.SocketStream(ours)) as client:
        nursery.start_soon(Agent(nursery).serve, trio.SocketStream(theirs))
        await client.send(argv=["sh", "-c", ALTERNATELY])
        async for message in client:
            for name in said:
                said[name] += message.get(name, "")
    assert said == {"out": "a\n" * LINES, "err": "b\n" * LINES}
