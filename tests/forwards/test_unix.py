"""Unix sockets: what is left over, who may connect, how connections end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
import trio

from muxfs.forwards import ports, unix
from muxfs.forwards.ports import OpenPort, open_port
from muxfs.forwards.spec import Forward, Target, UnixPath
from muxfs.forwards.splice import End, Transfer, splice
from muxfs.forwards.tcp import Connection

from .harness import sessions


def forward(path: Path) -> Forward:
    return Forward(UnixPath(str(path)), Target("localhost", 1))


def leave_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))


async def test_only_the_owner_may_connect_and_the_file_goes_with_the_listener(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    port = await open_port(forward(path))
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    assert (port.addresses, port.port, port.bound) == ((str(path),), 0, f"unix:{path}")
    await port.aclose()
    assert not path.exists()
    await port.aclose()


async def test_a_filesystem_that_hangs_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await open_port(forward(tmp_path / "s"))
    back = threading.Event()
    over: list[bool] = []
    monkeypatch.setattr(ports, "REMOVE_TIME", 0.05)
    monkeypatch.setattr(unix, "remove", lambda *_: over.append(back.wait(20)))
    with trio.CancelScope() as scope:
        scope.cancel()
        await port.aclose()
    assert port.sockets[0].fileno() < 0
    assert not over
    back.set()


async def test_what_a_killed_process_left_over_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    leave_over(path)
    port = await open_port(forward(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    await port.aclose()


async def test_of_several_that_replace_what_was_left_over_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left_over = tmp_path / "s", unix._left_over
    leave_over(path)

    def slowly(path: str) -> bool:
        found = left_over(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(unix, "_left_over", slowly)
    monkeypatch.setattr(unix, "LOOKS", 3000)  # whatever else this machine has to do
    opened: list[OpenPort] = []

    async def attempt() -> None:
        with contextlib.suppress(OSError):
            opened.append(await open_port(forward(path)))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(attempt)
    (port,) = opened
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    await port.aclose()
    assert not path.exists()


async def test_a_name_that_somebody_else_holds_keeps_nobody_out_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "LOOKS", 2)
    with unix._alone(str(tmp_path / "s")):
        port = await open_port(forward(tmp_path / "s"))
        await port.aclose()


async def test_a_living_listener_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    port = await open_port(forward(path))
    with pytest.raises(OSError, match="in use") as caught:
        await open_port(forward(path))
    assert caught.value.errno == errno.EADDRINUSE
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    await port.aclose()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    leave_over(other)
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(other)
    with pytest.raises(OSError, match="in use"):
        await open_port(forward(path))
    assert path.exists()
    assert other.exists()


async def test_another_ones_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    port = await open_port(forward(path))
    path.unlink()
    leave_over(path)
    await port.aclose()
    assert path.exists()


async def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_port(forward(tmp_path / "none" / "s"))


async def connected(port: OpenPort) -> tuple[trio.SocketStream, Connection]:
    client = await trio.open_unix_socket(port.addresses[0])
    return client, Connection(port.sockets[0].accept()[0])


async def test_a_client_that_leaves_unread_data_is_a_reset(tmp_path: Path) -> None:
    """The kernel has no other sign of it on Unix sockets; it crosses as a reset."""
    port = await open_port(forward(tmp_path / "s"))
    async with sessions() as (listen, dial), trio.open_nursery() as nursery:
        client, near = await connected(port)
        listener = dial.listen()
        transfer = Transfer()
        nursery.start_soon(splice, near, listen.start_stream("x"), transfer)
        async with await listener.accept() as far:
            await far.send_all(b"unread")
            await trio.lowlevel.wait_readable(client.socket)
            await client.aclose()
            with pytest.raises(trio.BrokenResourceError):
                await far.receive_some()
        assert transfer.up is End.FAILED
    await port.aclose()


async def test_a_reset_reaches_a_client_whose_data_was_not_read(tmp_path: Path) -> None:
    """As far as the kernel has a reset for Unix sockets: docs/forwards.md."""
    port = await open_port(forward(tmp_path / "s"))
    client, near = await connected(port)
    await client.send_all(b"unread")
    near.reset()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await client.aclose()
    await port.aclose()


async def test_what_was_sent_before_the_end_arrives(tmp_path: Path) -> None:
    port = await open_port(forward(tmp_path / "s"))
    client, near = await connected(port)
    await near.send_all(bytes(100_000))
    near.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.finish)
        received = b"".join([data async for data in client])
    assert received == bytes(100_000)
    await client.aclose()
    await port.aclose()
