"""How one side of a session behaves, and what it tells of itself."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from getpass import getuser
from typing import Final

import attrs
from attrs.validators import ge, le

from muxfs import process
from muxfs._version import __version__
from muxfs.core import wire
from muxfs.core.credit import MAX_WINDOW
from muxfs.core.engine import EngineConfig
from muxfs.core.polling import PollPolicy
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks, SealedBlocks
from muxfs.core.wire import Items, ItemType
from muxfs.sealing.key import Key, make_sealer
from muxfs.storage.access import Access
from muxfs.storage.budget import LEAST_OPERATIONS, LEAST_OPERATIONS_PER_BEAT

MAX_TIME: Final = wire.MAX_HEARTBEAT_MS / 1000
"""Longest heartbeat and peer timeout, in seconds."""

LEAST_TIMEOUT: Final = 0.5


@attrs.frozen
class SessionConfig:
    """How one side of a session behaves. Bytes and seconds."""

    capacity: int = attrs.field(default=wire.DEFAULT_CAPACITY)
    """Size of the own ring; 256 KiB to 1 GiB, a multiple of 4096."""
    max_streams: int = attrs.field(
        default=wire.DEFAULT_MAX_STREAMS, validator=[ge(0), le(wire.DEFAULT_MAX_STREAMS)]
    )
    """Live streams that the peer may have opened."""
    initial_credit: int = attrs.field(
        default=wire.DEFAULT_INITIAL_CREDIT, validator=[ge(1), le(MAX_WINDOW)]
    )
    """What the peer may send on a new stream; grows with use, to 16 MiB at the most."""
    heartbeat: float = attrs.field(
        default=wire.DEFAULT_HEARTBEAT_MS / 1000, validator=[ge(0.001), le(MAX_TIME)]
    )
    peer_timeout: float = attrs.field(
        default=wire.DEFAULT_PEER_TIMEOUT_MS / 1000, validator=le(MAX_TIME)
    )
    """Silence after which the peer is given up and streams are reset; 0: never."""
    poll: PollPolicy = attrs.field(factory=PollPolicy)
    access: Access | None = None
    """How files are read and written; None: as the filesystem asks for."""
    any_owner: bool = False
    """Use mailbox files that another user seems to own: some mounts show all files so."""
    max_ops: float | None = attrs.field(default=None)
    """Filesystem operations a second that this side may make, of all kinds; None: no limit."""
    takeover: bool = False
    """Start although another process of this role is alive; that one then ends."""
    key: Key | None = attrs.field(default=None)
    """Encrypt all, and believe nothing else; the other side must have the same key."""
    label: str = ""
    """Shown to the peer: a job id, for instance."""

    @peer_timeout.validator
    def _check_peer_timeout(self, _attribute: object, value: float) -> None:
        if value and value < LEAST_TIMEOUT:
            raise ValueError(f"peer_timeout must be 0, or {LEAST_TIMEOUT} s at least")

    @max_ops.validator
    def _check_max_ops(self, _attribute: object, value: float | None) -> None:
        least = max(LEAST_OPERATIONS, LEAST_OPERATIONS_PER_BEAT / self.heartbeat)
        if value is not None and not value >= least:
            raise ValueError(f"max_ops must be {least:g} operations a second at least")

    @capacity.validator
    def _check_capacity(self, _attribute: object, value: int) -> None:
        if not wire.MIN_CAPACITY <= value <= wire.MAX_CAPACITY or value % wire.PAGE:
            raise ValueError("capacity must be 256 KiB to 1 GiB, and a multiple of 4096")

    def blocks(self) -> Blocks:
        """Return what proves and reads blocks. Raises UnusableKey without `cryptography`."""
        return CHECKSUM_BLOCKS if self.key is None else SealedBlocks(make_sealer(self.key))

    def engine_config(self) -> EngineConfig:
        """Return what the core takes of it."""
        heartbeat = self.heartbeat
        if self.peer_timeout:
            # one beat may be late, and one be lost
            heartbeat = min(heartbeat, self.peer_timeout / (wire.LEAST_BEATS + 1))
        return EngineConfig(
            capacity=self.capacity,
            max_streams=self.max_streams,
            initial_credit=self.initial_credit,
            heartbeat=max(1, round(1000 * heartbeat)),
            peer_timeout=round(self.peer_timeout * 1000),
            items=_items(self.label),
        )


def _items(label: str) -> Items:
    texts = (
        (ItemType.SOFTWARE, f"muxfs {__version__}"),
        (ItemType.HOST, socket.gethostname()),
        (ItemType.PROCESS, process.identity()),
        (ItemType.USER, _user()),
        (ItemType.STARTED, datetime.now(UTC).isoformat(timespec="seconds")),
        (ItemType.LABEL, label),
    )
    return tuple((kind, wire.encode_text(text, 255)) for kind, text in texts if text)


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError):  # a uid without a name, in a container
        return str(os.geteuid())
