"""Removing a tunnel that nobody uses any more. Trio-free.

Rule: only what muxfs makes is removed, by name, through descriptors of directories that are
the user's own; no symbolic link is followed. What else lies there stays, and its directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from muxfs.cli.tunnel import SESSIONS
from muxfs.core.wire import Role

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> bool:
    """Remove a tunnel's directory; False if something is left of it."""
    try:
        with _opened(path) as tunnel, contextlib.suppress(FileNotFoundError):
            with _opened(SESSIONS, tunnel) as sessions:
                for name in filter(str.isdecimal, os.listdir(sessions)):
                    _remove_session(name, sessions)
            os.rmdir(SESSIONS, dir_fd=tunnel)
        os.rmdir(path)
    except OSError:
        return False
    return True


def _remove_session(name: str, sessions: int) -> None:
    with _opened(name, sessions) as session:
        for role in Role:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.lstat(role.file_name, dir_fd=session).st_mode):
                    os.unlink(role.file_name, dir_fd=session)
    os.rmdir(name, dir_fd=sessions)


@contextlib.contextmanager
def _opened(name: str, above: int | None = None) -> Iterator[int]:
    """Give a descriptor of a directory of the user's own. Raises OSError."""
    descriptor = os.open(name, _DIRECTORY, dir_fd=above)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(name)
        yield descriptor
    finally:
        os.close(descriptor)
