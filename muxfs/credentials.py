"""Who is at the other end of a Unix socket: the kernel's word (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import functools
import os
import socket
import struct

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_ALL_USERS = (1 << 32) - 1


def of_peer(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that connected, or that listens. Raises OSError."""
    answer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(answer)
    return pid, uid


def is_own(uid: int | None) -> bool:
    """Whether that is this process's user; no where the kernel shows others by the same number.

    For who can connect without opening a file: the kernel's checks of files are right everywhere.
    """
    return uid == os.geteuid() and not shows_others_as(uid)


@functools.cache
def shows_others_as(uid: int) -> bool:
    """Whether this uid also stands for all users whom this user namespace does not know.

    user_namespaces(7): as of `unshare --user`, and of a container that runs as nobody.
    """
    try:
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            if int(file.read()) != uid:
                return False
        with open("/proc/self/uid_map", "rb") as file:
            known = sum(int(line.split()[2]) for line in file)
    except OSError:  # a kernel without user namespaces
        return False
    return known < _ALL_USERS
