"""Waiting until a service of this host listens, without connecting to it.

The kernel's tables tell: a connection, even one that is closed at once, would be the only
one that some services take, and a line in the log of others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import trio

from muxfs.blocking import in_thread
from muxfs.forwards.spec import LOCALHOST, AnyTarget, Target, UnixPath

SHORTEST: Final = 0.1
LONGEST: Final = 1.0
GROWTH: Final = 1.3
"""Seconds between looks."""

_LISTENS: Final = "0A"
_ACCEPTS: Final = 0x10000
"""`__SO_ACCEPTCON` in /proc/net/unix."""
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")


async def wait_listening(target: AnyTarget) -> int | None:
    """Wait until somebody listens there; return whose it is (a uid), None where that is unknown."""
    nap = SHORTEST
    while True:
        found: list[int | None] = []
        with contextlib.suppress(OSError):  # no thread can be had just now
            found = await in_thread(_owners, target)
        if found:
            own = os.geteuid()
            return own if own in found else found[0]
        await trio.sleep(nap)
        nap = min(nap * GROWTH, LONGEST)


def is_local(target: AnyTarget) -> bool:
    """Whether this host's kernel knows of it."""
    return isinstance(target, UnixPath) or target.host == LOCALHOST


def _owners(target: AnyTarget) -> list[int | None]:
    if isinstance(target, UnixPath):
        return [None] if any(path == target.path for path in _sockets()) else []
    return list(_listeners(target))


def _listeners(target: Target) -> Iterator[int]:
    port = f":{target.port:04X}"
    for fields in _rows(_TABLES):
        if len(fields) > 7 and fields[3] == _LISTENS and fields[1].endswith(port):
            yield int(fields[7])


def _sockets() -> Iterator[str]:
    for fields in _rows(("/proc/net/unix",)):
        if len(fields) > 7 and int(fields[3], 16) & _ACCEPTS:
            yield " ".join(fields[7:])


def _rows(tables: tuple[str, ...]) -> Iterator[list[str]]:
    for name in tables:
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as table:
                next(table, None)
                yield from (line.split() for line in table)
        except OSError:
            continue  # a host without IPv6
