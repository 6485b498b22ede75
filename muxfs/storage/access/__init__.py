"""Small interchangeable ways to read and to write a mailbox file.

Which one is right depends on the filesystem's client, not on taste: a network
filesystem's client answers reads from caches that no one invalidates in time.
`muxfs.storage.filesystem` chooses the first one; this package only knows how.

Rule 1: a strategy is synchronous code for a worker thread; only `read_now` and
a writer that is `inline` run on the event loop, and those never block.
Rule 2: a strategy keeps nothing about a file; the descriptor's own flags say
how it was opened. So one strategy serves many files, from any thread.
Rule 3: offsets and lengths are free; alignment is the strategy's own business.
Rule 4: a reader never opens a file for writing.
"""

from muxfs.storage.access.buffers import ALIGNMENT, BufferPool, aligned
from muxfs.storage.access.reads import (
    CachedRead,
    DirectRead,
    DontneedRead,
    HeldRead,
    MemoryRead,
    ReadAccess,
    ReopenRead,
    StatxRead,
    revalidate,
)
from muxfs.storage.access.registry import READS, WRITES, Access, UnknownStrategy
from muxfs.storage.access.writes import (
    CloseWrite,
    DsyncWrite,
    FdatasyncWrite,
    MemoryWrite,
    PlainWrite,
    WriteAccess,
    write_all,
)

__all__ = [
    "ALIGNMENT",
    "READS",
    "WRITES",
    "Access",
    "BufferPool",
    "CachedRead",
    "CloseWrite",
    "DirectRead",
    "DontneedRead",
    "DsyncWrite",
    "FdatasyncWrite",
    "HeldRead",
    "MemoryRead",
    "MemoryWrite",
    "PlainWrite",
    "ReadAccess",
    "ReopenRead",
    "StatxRead",
    "UnknownStrategy",
    "WriteAccess",
    "aligned",
    "revalidate",
    "write_all",
]
