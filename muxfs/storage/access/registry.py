"""The strategies by name, and pairs of them."""

from __future__ import annotations

from typing import Final

import attrs

from muxfs.storage.access.reads import (
    CachedRead,
    DirectRead,
    DontneedRead,
    HeldRead,
    MemoryRead,
    ReadAccess,
    ReopenRead,
    StatxRead,
)
from muxfs.storage.access.writes import (
    CloseWrite,
    DsyncWrite,
    FdatasyncWrite,
    MemoryWrite,
    PlainWrite,
    WriteAccess,
)

READS: Final[dict[str, type[ReadAccess]]] = {
    strategy.name: strategy
    for strategy in (
        MemoryRead,
        CachedRead,
        HeldRead,
        DirectRead,
        DontneedRead,
        StatxRead,
        ReopenRead,
    )
}
WRITES: Final[dict[str, type[WriteAccess]]] = {
    strategy.name: strategy
    for strategy in (MemoryWrite, PlainWrite, DsyncWrite, FdatasyncWrite, CloseWrite)
}


class UnknownStrategy(ValueError):
    """A text that is not READ+WRITE; its message says which there are."""


@attrs.frozen
class Access:
    """How one session reads the peer's file and writes its own."""

    read: ReadAccess
    write: WriteAccess

    @property
    def name(self) -> str:
        """Both strategies' names, such as `direct+dsync`."""
        return f"{self.read.name}+{self.write.name}"

    @classmethod
    def named(cls, name: str) -> Access:
        """Make the pair of that name. Raises UnknownStrategy."""
        read, _, write = name.partition("+")
        if read not in READS or write not in WRITES:
            raise UnknownStrategy(
                f"{name!r} is not READ+WRITE, where READ is one of {', '.join(READS)} "
                f"and WRITE one of {', '.join(WRITES)}"
            )
        return cls(READS[read](), WRITES[write]())
