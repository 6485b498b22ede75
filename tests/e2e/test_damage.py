"""Mailbox files that somebody destroys in the middle of a transfer.

Each transfer completes right to the byte or ends with a reset, and the tunnel works again
afterwards. A wrong byte, a clean end before the last byte, or a hang fails the test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from .net import (
    MIB,
    Reader,
    Reset,
    assert_reset,
    check_echo,
    connect,
    echo,
    receive_exactly,
    send_pattern,
    serve,
)
from .process import Tunnel, also_sealed

LENGTH = 48 * MIB
DAMAGE_AT = 4 * MIB
HEAD = 16384


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Write into a file as a stranger would, without truncating it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def unlink(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble_all(path: Path) -> None:
    overwrite(path, 0, random.Random(3).randbytes(path.stat().st_size))


def garble_head(path: Path) -> None:
    overwrite(path, 0, random.Random(4).randbytes(HEAD))


def zero_ring(path: Path) -> None:
    overwrite(path, HEAD, bytes(path.stat().st_size - HEAD))


def replace(path: Path) -> None:
    """Put a copy in the file's place, as an editor or a sync tool does."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def leaves(group: BaseExceptionGroup[Reset]) -> Iterator[Reset]:
    """Give the exceptions of a group, however it is nested."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


pytestmark = also_sealed

DAMAGES = [unlink, truncate, halve, garble_all, garble_head, zero_ring, replace]


@pytest.mark.parametrize("role", ["listen", "dial"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_in_the_middle(
    tunnel: Tunnel, nursery: trio.Nursery, damage: Callable[[Path], None], role: str
) -> None:
    """Both directions flow while the file of one of them is damaged."""
    served = trio.Event()

    async def run(stream: trio.SocketStream, out: str, into: str, hurt: bool) -> None:
        async def send() -> None:
            await send_pattern(stream, out, LENGTH)
            await stream.send_eof()

        reader = Reader(stream, into)
        try:
            async with trio.open_nursery() as inner:
                inner.start_soon(send)
                await reader.take(DAMAGE_AT)
                if hurt:
                    damage(tunnel.mailbox(role))
                await reader.take_all()
            assert reader.count == LENGTH, f"clean end after {reader.count} bytes"
        except* Reset as group:
            for broken in leaves(group):
                assert_reset(broken)

    async def server(stream: trio.SocketStream) -> None:
        async with stream:
            await receive_exactly(stream, 1)
            await run(stream, "down", "up", hurt=role == "listen")
        served.set()

    transferring, answering = await serve(nursery, server), await serve(nursery, echo)
    listen, _ = await tunnel.connect(transferring, answering)
    first, second = listen.ports()
    async with await connect(first) as stream:
        await stream.send_all(b"!")
        await run(stream, "up", "down", hurt=role == "dial")
        await served.wait()
    await check_echo(second)
