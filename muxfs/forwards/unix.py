"""Unix sockets to listen on: for their owner only, and gone when the listener is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

MODE: Final = 0o600
LOOK: Final = 0.02
LOOKS: Final = 50
"""How often and how long another process that opens the same socket is waited for."""


def listen(path: str, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    """Bind and listen; return the socket and the identity of its file.

    Raises OSError; EADDRINUSE where something is, unless it is left over. Blocks.

    What a killed process left over is replaced: a socket of this user on which nobody
    listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone(path):
            _bind(sock, path)
            # nobody can connect before listen(), so that nobody meets another mode
            os.chmod(path, MODE)
            sock.listen(backlog)
        sock.setblocking(False)
        return sock, identity_of(path)
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _left_over(path):
            raise
        os.unlink(path)
        sock.bind(path)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep out other processes of this user that want to listen there.

    Else one would take another one's new socket, on which nobody listens yet, for left over. The
    lock is a name in the kernel (unix(7): abstract), which goes with its process. Any user
    could hold it, so that it is waited for only so long.
    """
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    name = f"\0muxfs-{os.geteuid()}-{sha256(os.fsencode(real)).hexdigest()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        for _ in range(LOOKS):
            try:
                lock.bind(name)
                break
            except OSError:
                time.sleep(LOOK)
        yield


def remove(path: str, identity: tuple[int, int]) -> None:
    """Remove the socket's file, if it is still the one that was made."""
    with contextlib.suppress(OSError):
        if identity_of(path) == identity:
            os.unlink(path)


def identity_of(path: str) -> tuple[int, int]:
    """Return what tells this file from another one of the name. Raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _left_over(path: str) -> bool:
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # a full backlog says EAGAIN: somebody is there
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
