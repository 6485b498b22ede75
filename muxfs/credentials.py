"""Who is at the other end of a Unix socket: the kernel's word (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import socket
import struct

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def of_peer(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that connected, or that listens. Raises OSError."""
    answer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(answer)
    return pid, uid
