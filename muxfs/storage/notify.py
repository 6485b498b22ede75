"""Being told of changes of a local file by the kernel: inotify(7), over ctypes.

Only where both ends share a kernel, and only as a hint: the caller reads the file
anyway, and goes on polling at its idle rate. A wake-up costs 30 us and no CPU
while waiting, and the scheduler prefers who slept: on a busy host a spinning
reader's echo took 1.4 ms where a woken one took a tenth of that. No package that
serves trio was found, and three calls do not need one.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

import trio

_IN_MODIFY: Final = 0x2
_EVENTS: Final = 4096  # events of one kind are merged, so that one read takes all there are

_libc = ctypes.CDLL(None, use_errno=True)


class FileNotifier:
    """Waits for changes of one open file."""

    def __init__(self, descriptor: int) -> None:
        """Watch the file of that descriptor, which may be closed then.

        Raises OSError (EMFILE where the user has too many of them, ENOSYS).
        """
        self._fd = self._checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            # by descriptor, not by name: the name may lead to another file by now
            path = f"/proc/self/fd/{descriptor}".encode()
            self._checked(_libc.inotify_add_watch(self._fd, path, _IN_MODIFY))
        except OSError:
            os.close(self._fd)
            raise
        self._fresh = True

    async def wait(self) -> None:
        """Wait until the file has changed since the last call returned.

        The first call returns at once: nobody knows what came before the watch began.
        """
        if self._fresh:
            self._fresh = False
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.wait_readable(self._fd)
        os.read(self._fd, _EVENTS)

    def close(self) -> None:
        """Stop watching; a task in `wait` gets trio.ClosedResourceError."""
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
