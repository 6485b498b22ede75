"""What programs that use muxfs need for their own tests: mailboxes in memory, with every fault.

Whole sessions run over a `MemoryFilesystem` in one process without files, threads
or real time, and so under `trio.testing.MockClock(autojump_threshold=0)`:

    fs = muxfs.testing.MemoryFilesystem(latency=0.002)
    listen_side = fs.storage("listen.mbx", "dial.mbx")
    dial_side = fs.storage("dial.mbx", "listen.mbx")

By default it is instantly coherent. Its attributes and methods make it slow, stale,
full or dead; those of its `files` tear, lose and refuse.
"""

from __future__ import annotations

from muxfs.storage.memory import MemoryFilesystem, MemoryStorage, View
from muxfs.storage.memory_file import (
    Choose,
    FrozenView,
    MemoryFile,
    Tear,
    random_tear,
    random_versions,
)

__all__ = [
    "Choose",
    "FrozenView",
    "MemoryFile",
    "MemoryFilesystem",
    "MemoryStorage",
    "Tear",
    "View",
    "random_tear",
    "random_versions",
]
