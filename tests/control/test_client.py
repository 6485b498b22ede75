"""Finding ends: what is found is alive, of this user, and of this tunnel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxfs import credentials
from muxfs.control import client, protocol
from muxfs.control.place import Place

TUNNEL = "/home/ann/.muxfs/job"
HELLO = {"muxfs": 1, "pid": 7, "role": "listen", "tunnel": TUNNEL}


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    taken = Place.take(TUNNEL, "listen")
    yield taken
    taken.leave()


@contextlib.contextmanager
def serving(taken: Place, answer: bytes) -> Iterator[None]:
    """Answer one client with these bytes, and close."""

    def run() -> None:
        # the test may be over without a client, or not read it
        with contextlib.suppress(OSError), taken.listener.accept()[0] as sock:
            sock.sendall(answer)

    taken.listener.setblocking(True)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        taken.listener.shutdown(socket.SHUT_RD)  # wakes an accept that nobody came to
        thread.join()


def line(**changes: object) -> bytes:
    return json.dumps({**HELLO, **changes}).encode() + b"\n"


def test_an_end_that_runs(taken: Place) -> None:
    with serving(taken, line()):
        (end,) = client.find(TUNNEL, "listen")
        assert (end.pid, end.role, end.speaks_this) == (7, "listen", True)
        with pytest.raises(client.Gone):
            end.receive()
        end.close()


def test_one_of_another_version_is_found(taken: Place) -> None:
    """So that it can be told, rather than another one be started."""
    with serving(taken, line(muxfs=2)):
        (end,) = client.find(TUNNEL, "listen")
    assert not end.speaks_this
    end.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"nonsense\n",
        b"[1]\n",
        b"x" * (2 * protocol.MAX_LINE),
        line(tunnel="/another"),
        line(role="dial"),
    ],
)
def test_what_is_not_found(taken: Place, said: bytes) -> None:
    with serving(taken, said):
        assert list(client.find(TUNNEL, "listen")) == []


def test_one_that_says_nothing_is_left_out(taken: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HELLO_TIME", 1)
    assert list(client.find(TUNNEL, "listen")) == []


def test_ends_beyond_a_gap_are_found(taken: Place) -> None:
    second = Place.take(TUNNEL, "listen")
    taken.listener.close()  # as after a kill: the name is there, and nobody listens
    with serving(second, line(pid=8)):
        (end,) = client.find(TUNNEL, "listen")
    assert end.pid == 8
    end.close()
    second.leave()


def test_directories_of_others_are_not_entered(taken: Place, tmp_path: Path) -> None:
    (tmp_path / "muxfs").chmod(0o755)
    assert list(client.find(TUNNEL, "listen")) == []
    assert taken.listener.fileno() >= 0


def test_a_socket_of_another_user(taken: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "of_peer", lambda _: (1, os.geteuid() + 1))
    with serving(taken, line()):
        assert list(client.find(TUNNEL, "listen")) == []


def test_peer() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert credentials.of_peer(left) == (os.getpid(), os.geteuid())
