"""Which bytes of the own file are being written, and by which thread: no two over each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

WHOLE = (0, 1 << 62)
"""The range of all bytes that a file may have."""


class Ranges:
    """Locks ranges of bytes against each other.

    An abandoned write that still hangs must not land after a later one of the same bytes;
    one of other bytes need not wait for it. Held during I/O, hence only ever waited for
    in threads.
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, int]] = []
        self._released = threading.Condition()

    def try_acquire(self, wanted: tuple[int, int]) -> bool:
        """Lock (start, stop) if nobody has any byte of it; whether that was so."""
        with self._released:
            free = self._is_free(wanted)
            if free:
                self._held.append(wanted)
            return free

    def release(self, held: tuple[int, int]) -> None:
        """Unlock what was locked."""
        with self._released:
            self._held.remove(held)
            self._released.notify_all()

    def wait_for_small(self, most: int, timeout: float) -> None:
        """Wait until what is locked, if that is `most` bytes or less, is unlocked."""
        with self._released:
            if 0 < sum(stop - start for start, stop in self._held) <= most:
                self._released.wait(timeout)

    @contextmanager
    def locked(self, wanted: tuple[int, int]) -> Iterator[None]:
        """Lock (start, stop) for a `with` block, when all who have some of it have left."""
        with self._released:
            self._released.wait_for(lambda: self._is_free(wanted))
            self._held.append(wanted)
        try:
            yield
        finally:
            self.release(wanted)

    def _is_free(self, wanted: tuple[int, int]) -> bool:
        start, stop = wanted
        return all(stop <= first or last <= start for first, last in self._held)
