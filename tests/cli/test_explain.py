"""`muxfs explain`, on real mailboxes and on garbage."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxfs.cli import main
from muxfs.cli.anatomy import describe
from muxfs.core import wire
from muxfs.core.wire import (
    PAGE,
    RING_OFFSET,
    Birth,
    Code,
    Frame,
    FrameType,
    Incarnation,
    ItemType,
    Role,
    Status,
)
from tests.commands import Runner

OWN, PEER = Incarnation(3, b"o" * 16), Incarnation(5, b"p" * 16)
EPOCH = wire.epoch_of(OWN, PEER)


def batch(position: int, frames: list[Frame], epoch: int = EPOCH) -> bytes:
    parts = [wire.encode_frame(frame) for frame in frames]
    return b"".join(wire.encode_batch(epoch, position, 77, parts, len(frames)))


def mailbox(*batches: tuple[int, bytes], capacity: int = 256 << 10) -> bytearray:
    """Make a mailbox of the dial side with batches at these positions."""
    data = bytearray(RING_OFFSET + capacity)
    birth = Birth(Role.DIAL, OWN, capacity=capacity, items=((ItemType.HOST, b"node\x1b[1m"),))
    for at, block in (
        (0, wire.encode_birth(birth)),
        (PAGE, wire.encode_status(Status(OWN, None, 2))),
        (2 * PAGE, wire.encode_status(Status(OWN, PEER, 3, write_position=640, read_position=64))),
        *((RING_OFFSET + position % capacity, block) for position, block in batches),
    ):
        data[at : at + len(block)] = block
    return data


def explain(path: Path, data: bytes, *options: str) -> int:
    path.write_bytes(data)
    return main(["explain", str(path), *options])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_for_what_is_printed(tmp_path: Path, unbuffered: str) -> None:
    path = tmp_path / "dial.mbx"
    path.write_bytes(mailbox())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "muxfs", "explain", str(path)],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "muxfs: cannot write the output: No space left on device\n"
    assert done.returncode == os.EX_CANTCREAT


def test_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "dial.mbx"
    path.write_bytes(mailbox())
    words = [sys.executable, "-u", "-m", "muxfs", "explain", str(path)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mailbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opening = Frame(FrameType.OPEN, 1, payload=wire.encode_open("db:1\x07", "me"))
    data = mailbox(
        (0, batch(0, [opening, Frame(FrameType.DATA, 1, 0, b"secret", wire.FLAG_FIN)])),
        (192, batch(192, [Frame(FrameType.RESET, 2, 9, b"no\x1bway", code=Code.REFUSED)])),
        (64 * 20, batch(64 * 20, [], epoch=1)),
    )
    assert explain(tmp_path / "f", data) == 0
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert "secret" not in said
    for words in (
        "  written by   the dial side\n",
        "  host         node\\x1b[1m\n",
        "status slot 0: older\n",
        "status slot 1: newest\n",
        "  echo         generation 5, nonce 7070",
        f"ring, current epoch {EPOCH:016x}\n",
        "  earlier      1 batches of epoch 0000000000000001\n",
        "  position 0 at offset 16384: 105 bytes, ack 77, 2 frames\n",
        "    OPEN   stream 1 to db:1\\x07 for me\n",
        "    DATA   stream 1 sequence 0, 6 bytes, FIN\n",
        "    RESET  stream 2 sequence 9, REFUSED no\\x1bway\n",
    ):
        assert words in said


def test_a_torn_batch_and_a_lap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capacity = 256 << 10
    torn = bytearray(batch(128, [Frame(FrameType.DATA, 1, 0, bytes(200))]))
    torn[100] ^= 1
    data = mailbox(
        (128, bytes(torn)),
        (capacity, batch(capacity, [Frame(FrameType.PING, 0, payload=b"12345678")])),
        (capacity - 64, b"".join(wire.encode_pad(EPOCH, capacity - 64, 5))),
    )
    assert explain(tmp_path / "f", data) == 0
    said = capsys.readouterr().out
    assert "its checksum does not hold" in said
    assert f"position {capacity} at offset {RING_OFFSET}" in said
    assert f"position {capacity - 64} at offset" in said
    assert "ack 5, the rest of the ring is skipped" in said
    assert "PING   stream 0 8 bytes" in said


def test_a_batch_inside_of_what_a_stream_carries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = batch(128, [Frame(FrameType.CREDIT, 7, 1)])
    padding = bytes(128 - wire.BATCH_HEADER - wire.FRAME_HEADER)
    outer = batch(0, [Frame(FrameType.DATA, 1, 0, padding + inner)])
    assert explain(tmp_path / "f", mailbox((0, outer))) == 0
    assert "CREDIT" not in capsys.readouterr().out


def test_the_last_batches_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = [(n * 128, batch(n * 128, [Frame(FrameType.CREDIT, 1, n)])) for n in range(30)]
    assert explain(tmp_path / "f", mailbox(*ring), "--batches", "2") == 0
    said = capsys.readouterr().out
    assert "30, of which the last 2 follow" in said
    assert said.count("CREDIT") == 2
    assert explain(tmp_path / "f", mailbox(*ring), "--batches", "0") == 0
    assert capsys.readouterr().out.count("CREDIT") == 30


def test_frames_in_words() -> None:
    assert describe(Frame(FrameType.ACCEPT, 2, payload=b"a:1")) == "ACCEPT stream 2 bound to a:1"
    assert describe(Frame(0x90, 2, payload=b"xyz")) == "type 0x90, stream 2, 3 bytes"
    broken = describe(Frame(FrameType.OPEN, 1, payload=b"\xff"))
    assert broken == "OPEN   stream 1 broken: an OPEN that is too short"
    assert "INTERNAL" in describe(Frame(FrameType.STOP, 1, code=999))


def test_a_newer_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import xxhash

    birth = bytearray(wire.encode_birth(Birth(Role.DIAL, OWN))[:-8])
    birth[8] = 7
    explain(tmp_path / "f", bytes(birth) + xxhash.xxh3_64_digest(birth))
    assert "7.0, which this muxfs does not understand" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"x", bytes(100_000), random.Random(1).randbytes(300_000)])
def test_what_is_no_mailbox(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(tmp_path / "f", data) == 65
    assert "not valid" in capsys.readouterr().out


def test_what_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path / "missing", "No such file or directory"),
    ):
        assert main(["explain", str(path)]) == 66
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.startswith("muxfs: ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    frames = [Frame(kind, 1, 5, b"payload") for kind in FrameType]
    content = mailbox(*((n * 448, batch(n * 448, frames)) for n in range(3)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, RING_OFFSET + 2000))
        piece = data.draw(st.binary(min_size=1, max_size=64))
        content[at : at + len(piece)] = piece
    del content[data.draw(st.integers(0, len(content))) :]
    assert explain(tmp_path / "f", content) in {0, 65}
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_the_mailbox_of_a_session(muxfs: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = server.getsockname()[1]
        listen = muxfs.start("listen", "job", f"0:{target}", "--json", "-v")
        muxfs.start("dial", "job")
        port = listen.event("listening")["port"]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"12345")
            served, _ = server.accept()
            # What is left unread at close would make it a reset.
            assert served.recv(5) == b"12345"
            served.close()
            assert client.recv(1) == b""
    listen.event("ended")
    command = muxfs.run("explain", str(muxfs.home / "job/sessions/0/listen.mbx"))
    said = "\n".join(command.lines["stdout"])
    assert command.wait() == 0
    assert f"OPEN   stream 2 to localhost:{target} for 127.0.0.1:" in said
    assert "DATA   stream 2 sequence 0, 5 bytes" in said
