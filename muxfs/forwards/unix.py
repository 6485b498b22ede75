"""Unix sockets to listen on: for their owner only, and gone when the listener is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Final

MODE: Final = 0o600


def listen(path: str, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    """Bind and listen; return the socket and the identity of its file.

    Raises OSError; EADDRINUSE where something is, unless it is left over.

    What a killed process left over is replaced: a socket of this user on which nobody
    listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _left_over(path):
                raise
            os.unlink(path)
            sock.bind(path)
        # nobody can connect before listen(), so that nobody meets another mode
        os.chmod(path, MODE)
        sock.listen(backlog)
        sock.setblocking(False)
        return sock, identity_of(path)
    except BaseException:
        sock.close()
        raise


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
