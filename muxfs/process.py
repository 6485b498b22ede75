"""Which process wrote a mailbox, and whether it is still alive on this host.

A process is named by boot id, pid namespace, pid and start time (protocol.md,
section 3), so that neither a reused pid nor a container with the same host name
is taken for it.
"""

from __future__ import annotations

import os


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def _start_time(pid: int) -> str:
    # field 22 of proc(5)'s stat; the name in parentheses may hold blanks
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]


def _here() -> str:
    return f"{_read('/proc/sys/kernel/random/boot_id')}/{os.readlink('/proc/self/ns/pid')}"


def identity() -> str:
    """Name this process; "" where /proc does not tell."""
    try:
        return f"{_here()}/{os.getpid()}/{_start_time(os.getpid())}"
    except (OSError, IndexError):
        return ""


def pid_of(name: str) -> int | None:
    """Return the pid in a process's name; None for a malformed one."""
    parts = name.split("/")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdecimal() else None


def is_alive(name: str) -> bool | None:
    """Whether the process of that name lives; None where that cannot be known from here."""
    pid = pid_of(name)
    try:
        if pid is None or not name.startswith(f"{_here()}/"):
            return None
    except OSError:
        return None
    try:
        return name.endswith(f"/{_start_time(pid)}") and _is_running(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, IndexError):
        return None


def _is_running(pid: int) -> bool:
    state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    return state not in {"Z", "X"}
