"""Which strategies are worth measuring, and which of them can be relied on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from muxfs.storage.access import (
    READS,
    WRITES,
    CachedRead,
    CloseWrite,
    DirectRead,
    DontneedRead,
    DsyncWrite,
    FdatasyncWrite,
    HeldRead,
    MemoryRead,
    MemoryWrite,
    PlainWrite,
    StatxRead,
)

# They differ in the thread that does it, not in what the filesystem is asked for.
_SAME_READ: Final = {MemoryRead.name: HeldRead.name, CachedRead.name: HeldRead.name}
_SAME_WRITE: Final = {MemoryWrite.name: PlainWrite.name}

PAST_THE_CACHE: Final = frozenset({DirectRead.name, DontneedRead.name, StatxRead.name})
"""Ways to read that no page cache can make stale. The others were seen to get stuck for ever
on network filesystems, though some only once in some thousand messages: a short test proves
nothing for them."""
SYNCED: Final = frozenset({DsyncWrite.name, FdatasyncWrite.name, CloseWrite.name})
"""Ways to write whose bytes are on the file server when the call returns."""


def reads_beside(chosen: str, names: Iterable[str] = READS) -> list[str]:
    """Return the ways to read that differ, `chosen` first."""
    return _beside(chosen, names, _SAME_READ)


def writes_beside(chosen: str, names: Iterable[str] = WRITES) -> list[str]:
    """Return the ways to write that differ, `chosen` first."""
    return _beside(chosen, names, _SAME_WRITE)


def _beside(chosen: str, names: Iterable[str], same: Mapping[str, str]) -> list[str]:
    like_it = same.get(chosen, chosen)
    return [chosen, *(name for name in names if name not in {like_it, *same, chosen})]
