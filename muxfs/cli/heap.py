"""The memory of a process that carries a tunnel: the C library's heap, Python's collector."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any, Final

import trio

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
YOUNG: Final = 5000
"""Objects more than were freed until the youngest are looked at."""
KEPT: Final = 64 << 20
"""Freed bytes that stay with the process at the most, while there is traffic."""
QUIET: Final = 30.0
"""Seconds without traffic after which they are given back. What comes sooner finds them warm: each
page that is fresh costs 2.5 us in a virtual machine, and 80 in one of user-mode Linux, where a
stream on NFS spent a quarter of its time on them."""
LITTLE: Final = 1 << 20
"""Bytes carried in that time that count as none."""


def spare_the_collector() -> None:
    """Leave what was imported out of Python's garbage collections, and have fewer of them.

    A full one went through all of it, 32,000 objects: 16 ms on a busy core, in which nothing
    is carried.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def keep_freed_memory() -> None:
    """Do not give batches back to the kernel for each new one to fault in again.

    A batch is a megabyte or two that live for a millisecond. With glibc's defaults that was 80 page
    faults for each, and a tenth of the throughput. Nor does each thread have an arena of its own,
    in which what it freed would wait for it. Other C libraries are left alone.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, KEPT // 2)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
        mallopt(_M_TOP_PAD, KEPT // 4)


async def give_back_when_quiet(carried: Callable[[], int]) -> None:
    """Give freed memory back to the kernel whenever much was carried, and now there is quiet.

    carried: bytes so far, of the sessions there are. A tunnel that is left open overnight keeps
    nothing of the gigabytes that went through it: 31 MiB of 104. It takes the loop 8 ms, when
    nothing is waiting for it.
    """
    trim = _glibc("malloc_trim")
    if trim is None:
        return
    used, before = False, carried()
    while True:
        await trio.sleep(QUIET)
        now = carried()
        if abs(now - before) >= LITTLE:
            used = True
        elif used:
            trim(0)
            used = False
        before = now


def _glibc(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), name, None)
