"""Ports that stay as they are found: nobody gets one of these without asking for its number."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LEAST = 10_000


def unused_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of the loopback that nothing has.

    Outside of those that the kernel gives to clients and to port 0: one of these, once it is
    closed, is the next connection's of any process.
    """
    below = int(RANGE.read_text().split()[0])
    while True:
        port = random.randrange(LEAST, max(below, 2 * LEAST))
        if all(_is_free(family, host, kind, port) for family, host in _LOOPBACK):
            return port


_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _is_free(family: int, host: str, kind: socket.SocketKind, port: int) -> bool:
    try:
        with socket.socket(family, kind) as sock:
            sock.bind((host, port))
    except OSError as error:
        return error.errno in _NO_SUCH_FAMILY
    return True
