"""What a file server does to its clients: it goes and comes back, and its disk is full."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from .ends import Ends, open_ends
from .lab import Client, Lab

Outage = Callable[[Lab], contextlib.AbstractAsyncContextManager[None]]
DOWN = 20.0
PATIENCE = 15.0
"""Seconds in which a command must end after Ctrl-C, though its mount hangs."""


@contextlib.asynccontextmanager
async def stopped(lab: Lab) -> AsyncIterator[None]:
    """Stop the server for a block, and for 20 s at least."""
    await lab.stop_server()
    try:
        down = trio.current_time()
        yield
        await trio.sleep_until(down + DOWN)
    finally:
        with trio.CancelScope(shield=True):
            await lab.start_server()


@contextlib.asynccontextmanager
async def crashed(lab: Lab) -> AsyncIterator[None]:
    """Take the server's power away for a block."""
    await lab.crash_server()
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await lab.restart_server()


@pytest.mark.parametrize("outage", [stopped, crashed])
async def test_server_restarts_in_the_middle_of_a_transfer(ends: Ends, outage: Outage) -> None:
    """Stopped for 20 s, or without power: the transfer completes, right to the byte."""
    port = await ends.up()
    transfer = await ends.begin("duplex", port, 2, 20)
    await transfer.warm()
    async with outage(ends.lab):
        assert transfer.process.returncode is None
    await transfer.report()
    assert transfer.process.returncode in (None, 0)
    for side in ends.sides:
        assert "lost" not in [event["event"] for event in side.events]


async def test_ctrl_c_while_the_mount_hangs(ends: Ends) -> None:
    """Both ends tell their end; `muxfs status` gives up, and without Ctrl-C it does so, too."""
    await ends.up()
    async with stopped(ends.lab):
        status = await ends.open_muxfs(ends.listener, "status", ends.directory)
        await trio.sleep(3)  # for whatever it does to meet the dead server
        for process in (status, *(side.process for side in ends.sides)):
            process.send_signal(signal.SIGINT)
        for side in ends.sides:
            closed = await side.event("closed", within=PATIENCE)
            assert closed["exit"] == 128 + signal.SIGINT
        if not ends.lab.lingering:
            with trio.fail_after(PATIENCE):
                await status.wait()
            said = await ends.muxfs(ends.listener, "status", ends.directory)
            assert said.status == os.EX_IOERR
            assert f"the filesystem of {ends.directory} (" in said.errors
            assert " does not answer: its file server hangs or is gone" in said.errors
    with trio.fail_after(PATIENCE):
        await status.wait()


@contextlib.asynccontextmanager
async def filled(client: Client, place: Path, leave: int) -> AsyncIterator[None]:
    """Fill a disk for the time of a block, but for about `leave` bytes."""
    script = f"""
        free=$(df --output=avail -B1 {place} | tail -1)
        dd if=/dev/zero of={place}/filling bs=64K count=$(((free - {leave}) / 65536)) conv=fsync
        [ {leave} != 0 ] || dd if=/dev/zero of={place}/rest bs=4K oflag=dsync
        true
    """
    try:
        await client.run("bash", "-c", script)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await client.run("rm", "-f", f"{place}/filling", f"{place}/rest")


@pytest.fixture
async def small_ends(lab: Lab, tmp_path: Path) -> AsyncIterator[Ends]:
    """Give a tunnel on the small disk, which is removed in the end."""
    directory = lab.place("small") / f"tunnel-{os.urandom(4).hex()}"
    async with open_ends(lab, directory, tmp_path) as ends:
        yield ends
    await lab.clients[0].run("rm", "-rf", str(directory))


async def test_full_disk_at_start(small_ends: Ends) -> None:
    """The error says what is full, and what to do."""
    ends = small_ends
    async with filled(ends.dialler, ends.directory.parent, leave=1 << 20):
        said = await ends.muxfs(ends.listener, "listen", ends.directory, "0:8888", "--ring", "4M")
    status, words = ends.lab.full
    assert said.status == status
    assert words in said.errors
    assert "the mailbox file needs 4.0 MiB (see --ring)" in said.errors


async def test_disk_that_another_writer_fills_while_the_tunnel_is_used(small_ends: Ends) -> None:
    """What was preallocated goes on working."""
    ends = small_ends
    port = await ends.up("--ring", "2M")
    async with filled(ends.dialler, ends.directory.parent, leave=0):
        await ends.work("duplex", port, 2, 5)
        await ends.work("requests", port, 20, 4)


async def test_client_machine_crashes(ends: Ends) -> None:
    """The streams of the other side are reset, and the next session forms by itself."""
    lab = ends.lab
    target = await ends.serve()
    listen, dial = await ends.connect(target)
    port = await listen.port()
    flood = await ends.begin("flood", port)
    await flood.warm()
    seen = len(listen.events)
    await lab.crash(ends.dialler)
    try:
        assert await dial.process.wait() == -signal.SIGKILL
    finally:
        with trio.CancelScope(shield=True):
            await lab.restart(ends.dialler)
    await ends.traffic(ends.dialler, "serve", target)
    await ends.dial()
    assert await flood.report() == {"end": "reset"}
    await listen.event("lost", after=seen)
    await listen.event("established", after=seen)
    await ends.work("requests", port, 20, 4)
