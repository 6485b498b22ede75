"""Whether there is room for mailbox files: free space, and the quota where the kernel tells it."""

from __future__ import annotations

import ctypes
import os
from typing import Final

import attrs

_QUOTACTL_FD: Final = 443  # Linux 5.14, the same number on x86-64 and aarch64
_Q_GETQUOTA: Final = 0x800007
_TYPES: Final = {"user": 0, "group": 1}
_QUOTA_BLOCK: Final = 1024  # QIF_DQBLKSIZE


class _Dqblk(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("hard", "soft", "used")),
        *((name, ctypes.c_uint64) for name in ("inodes_hard", "inodes_soft", "inodes")),
        *((name, ctypes.c_uint64) for name in ("time", "inodes_time")),
        ("valid", ctypes.c_uint32),
    )


@attrs.frozen
class Quota:
    """What may be used and is; bytes."""

    whose: str
    used: int
    limit: int

    @property
    def left(self) -> int:
        """Bytes that may still be written."""
        return max(0, self.limit - self.used)


@attrs.frozen
class Space:
    """Room on a filesystem."""

    free: int | None
    """Bytes for ordinary users; None where the filesystem does not tell."""
    inodes: int | None
    """Files that may still be made; None where the filesystem does not count them."""
    quotas: tuple[Quota, ...]
    """Of this user and group; none where there are no limits, or they are not told."""
    told: bool
    """Whether the kernel tells of quotas there. On NFS it does not: the server knows."""


def look(path: str) -> Space:
    """Look how much room there is. Blocks while the server is down; raises OSError."""
    state = os.statvfs(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        quotas = [_quota(descriptor, whose) for whose in _TYPES]
    finally:
        os.close(descriptor)
    known = tuple(quota for quota in quotas if quota is not None and quota.limit)
    return Space(
        # of no blocks at all: CephFS in its first minute, some FUSE filesystems for ever
        free=state.f_bavail * state.f_frsize if state.f_blocks else None,
        # ceph-fuse says -1
        inodes=state.f_favail if state.f_files > 0 and state.f_favail >= 0 else None,
        quotas=known,
        told=any(quota is not None for quota in quotas),
    )


def _quota(descriptor: int, whose: str) -> Quota | None:
    number = os.geteuid() if whose == "user" else os.getegid()
    block = _Dqblk()
    command = (_Q_GETQUOTA << 8) | _TYPES[whose]
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (_QUOTACTL_FD, descriptor, ctypes.c_uint(command), number, ctypes.byref(block))
    if syscall(*arguments):
        return None  # ENOSYS: an old kernel, or NFS; ESRCH: no quotas here
    return Quota(whose, block.used, (block.hard or block.soft) * _QUOTA_BLOCK)
