"""Many TCP streams through two files on a shared filesystem.

The embedding API is `open_session` and what it yields; everything is imported on
first use, since `muxfs --help` must not wait for trio.
"""

from __future__ import annotations

from importlib import import_module

from muxfs._version import __version__

TYPE_CHECKING = False  # typing takes 4 ms to import, and `stdio` starts for each connection
if TYPE_CHECKING:
    from muxfs.config import SessionConfig
    from muxfs.core.polling import PollPolicy
    from muxfs.core.wire import Code
    from muxfs.errors import (
        AlreadyRunning,
        MuxfsError,
        SessionError,
        StreamEnded,
        StreamRefused,
        StreamReset,
        UnusableKey,
        printable,
    )
    from muxfs.info import (
        AccessChanged,
        Change,
        Established,
        Lost,
        PeerInfo,
        Resumed,
        SessionState,
        SessionStats,
        Silent,
        StorageRecovered,
        StorageTrouble,
        Stranger,
    )
    from muxfs.sealing.files import load_key
    from muxfs.sealing.key import Key
    from muxfs.session import Session, open_session
    from muxfs.stream import MuxListener, MuxStream

_HOMES = {
    "muxfs.core.polling": ("PollPolicy",),
    "muxfs.core.wire": ("Code",),
    "muxfs.errors": (
        "AlreadyRunning",
        "MuxfsError",
        "SessionError",
        "StreamEnded",
        "StreamRefused",
        "StreamReset",
        "UnusableKey",
        "printable",
    ),
    "muxfs.info": (
        "AccessChanged",
        "Change",
        "Established",
        "Lost",
        "PeerInfo",
        "Resumed",
        "SessionState",
        "SessionStats",
        "Silent",
        "StorageRecovered",
        "StorageTrouble",
        "Stranger",
    ),
    "muxfs.sealing.files": ("load_key",),
    "muxfs.sealing.key": ("Key",),
    "muxfs.config": ("SessionConfig",),
    "muxfs.session": ("Session", "open_session"),
    "muxfs.stream": ("MuxListener", "MuxStream"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AccessChanged",
    "AlreadyRunning",
    "Change",
    "Code",
    "Established",
    "Key",
    "Lost",
    "MuxListener",
    "MuxStream",
    "MuxfsError",
    "PeerInfo",
    "PollPolicy",
    "Resumed",
    "Session",
    "SessionConfig",
    "SessionError",
    "SessionState",
    "SessionStats",
    "Silent",
    "StorageRecovered",
    "StorageTrouble",
    "Stranger",
    "StreamEnded",
    "StreamRefused",
    "StreamReset",
    "UnusableKey",
    "__version__",
    "load_key",
    "open_session",
    "printable",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
