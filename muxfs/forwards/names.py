"""Resolving names: whatever is wrong with one is a `socket.gaierror`."""

from __future__ import annotations

import errno
import socket
from typing import TypeAlias

import trio

Address: TypeAlias = tuple[int, tuple[str, int]]
"""Family and socket address; those of IPv6 have two numbers more."""


async def resolve(host: str, port: int, kind: int = socket.SOCK_STREAM) -> list[Address]:
    """Find the addresses of a name. Raises OSError (gaierror for an unknown one)."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=kind)
    except UnicodeError:  # empty or long labels, characters that no name has (RFC 5891)
        raise socket.gaierror(socket.EAI_NONAME, "it is not a valid name") from None
    except RuntimeError as error:  # no thread can be started: it concerns this name, not all
        raise OSError(errno.EAGAIN, str(error)) from None
    return [(int(family), address) for family, _, _, _, address in found]  # type: ignore[misc]
