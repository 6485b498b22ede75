"""`muxfs forward`: forwards of ends that run as processes."""

from __future__ import annotations

import json
import sys

import attrs
import pytest
import trio

from muxfs.cli.failures import UNAVAILABLE, USAGE

from .net import check_echo, connect, echo, serve
from .process import Tunnel
from .test_stdio import both


@attrs.frozen
class Ended:
    status: int
    out: str
    err: str


async def forward(tunnel: Tunnel, *arguments: str) -> Ended:
    words = [sys.executable, "-m", "muxfs", "forward", str(tunnel.directory), *arguments]
    done = await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


async def test_added_listed_used_and_cancelled(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    await both(tunnel)
    side = ("--side", "listen")
    assert await forward(tunnel, *side) == Ended(0, "no forwards\n", "")
    added = await forward(tunnel, "-L", f"0:localhost:{target}", *side, "--json")
    (one,) = json.loads(added.out)["forwards"]
    port = int(one["bound"].rpartition(":")[2])
    await check_echo(port)
    listed = await forward(tunnel, *side)
    assert listed.out == f"-L 0:localhost:{target}  on 127.0.0.1:{port}\n"
    cancelled = await forward(tunnel, "--cancel", f"{port}:localhost:{target}", *side)
    assert cancelled == Ended(0, f"cancelled -L 0:localhost:{target}\n", "")
    assert (await forward(tunnel, *side)).out == "no forwards\n"
    with pytest.raises(ConnectionRefusedError):
        await connect(port)


async def test_every_kind(tunnel: Tunnel, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    await both(tunnel)
    kinds = ["-D", "0", "--http-proxy", "0", "-R", f"0:localhost:{target}", "-U", "0:localhost:53"]
    added = await forward(tunnel, *kinds, "--side", "listen", "--json")
    assert added.status == 0, added.err
    bound = {f["forward"].split()[0]: f["bound"] for f in json.loads(added.out)["forwards"]}
    assert set(bound) == {"-D", "--http-proxy", "-R", "-U"}
    await check_echo(int(bound["-R"].rpartition(":")[2]))


async def test_which_end_is_meant(tunnel: Tunnel) -> None:
    assert await forward(tunnel) == Ended(
        UNAVAILABLE,
        "",
        f"muxfs: no muxfs listen or dial runs on this host for {tunnel.directory}\n",
    )
    listen, dial = await both(tunnel)
    several = await forward(tunnel)
    assert several.status == USAGE
    assert f"listen (pid {listen.process.pid}), muxfs dial (pid {dial.process.pid})" in several.err
    assert (await forward(tunnel, "--pid", str(dial.process.pid))).out == "no forwards\n"
    assert (await forward(tunnel, "--pid", "1")).status == UNAVAILABLE


async def test_refusals(tunnel: Tunnel) -> None:
    await both(tunnel)
    side = ("--side", "listen")
    done = await forward(tunnel, "--cancel", "-L", "1", *side)
    assert (done.status, done.err) == (
        UNAVAILABLE,
        "muxfs: -L 1:localhost:1 is not forwarded here\n",
    )
    assert (await forward(tunnel, "--cancel", *side)).status == USAGE
    assert (await forward(tunnel, "-L", "x", *side)).status == USAGE
    refused = await forward(tunnel, "-R", "80:localhost:80", *side)
    assert refused.status != 0
    assert "--allow-listen" in refused.err
    assert (await forward(tunnel, *side)).out == "no forwards\n"
