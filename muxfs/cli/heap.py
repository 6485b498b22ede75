"""The memory of a process that carries a tunnel: the C library's heap, Python's collector."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
YOUNG: Final = 5000
"""Objects more than were freed until the youngest are looked at."""
KEPT: Final = 64 << 20
"""Freed bytes that stay with the process at the most."""


def spare_the_collector() -> None:
    """Leave what was imported out of Python's garbage collections, and have fewer of them.

    A full one went through all of it, 32,000 objects: 16 ms on a busy core, in which nothing
    is carried.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def keep_freed_memory() -> None:
    """Do not give batches back to the kernel for each new one to fault in again.

    A batch is a megabyte that lives for a millisecond. With glibc's defaults that was 80 page
    faults for each, and a tenth of the throughput. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT // 2)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
        mallopt(_M_TOP_PAD, KEPT // 4)
