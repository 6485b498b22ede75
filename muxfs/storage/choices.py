"""How mailboxes are read and written on each filesystem, and how that is known to be right.

`docs/filesystems.md` has the same table for people, and where the documentation says it; a test
compares the two.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from muxfs.storage.access import Access


class Kind(enum.Enum):
    """What matters to mailboxes about a filesystem."""

    MEMORY = "memory"  # local, its files are memory
    LOCAL = "local"  # local, on a disk of this host
    NETWORK = "network"  # other hosts may write it, or nothing is known about it


class Source(enum.Enum):
    """How it is known that a choice is right."""

    MEASURED = "measured"  # two clients of one server, thousands of overwrites in place
    DESIGN = "coherent by design"  # one cache, or caches that its locks keep equal
    DOCUMENTED = "documentation"  # of its authors, or their source
    SAFEST = "safest"  # nothing is known: what was right on all that were measured


@attrs.frozen
class Choice:
    """The first strategies of some filesystems."""

    types: tuple[str, ...]
    """As `/proc/self/mountinfo` names them."""
    access: str
    """Names of the strategies, READ+WRITE."""
    source: Source
    kind: Kind = Kind.NETWORK
    least_pause: float = 0.0
    """Seconds that must pass between two polls, for the filesystem's sake."""
    owner_option: str = ""
    """Mount option with which users see their own files as their own; UID stands for theirs."""

    def make(self) -> Access:
        """Make the strategies."""
        return Access.named(self.access)


CHOICES: Final = (
    # One kernel has all of these files in its page cache, which is coherent: a write is seen
    # by the next read, without any sync. So too where this host serves them to the other one.
    Choice(("tmpfs", "ramfs", "devtmpfs"), "memory+memory", Source.MEASURED, Kind.MEMORY),
    Choice(("ext4", "ext3", "ext2", "xfs"), "cached+plain", Source.MEASURED, Kind.LOCAL),
    # overlay counts: what two hosts share cannot be seen through one, and its upper layer
    # must be local.
    Choice(
        (
            "btrfs",
            "zfs",
            "overlay",
            "bcachefs",
            "f2fs",
            "jfs",
            "nilfs2",
            "reiserfs",
            "vfat",
            "msdos",
            "exfat",
            "ntfs",
            "ntfs3",
        ),
        "cached+plain",
        Source.DESIGN,
        Kind.LOCAL,
    ),
    Choice(("nfs", "nfs4"), "direct+dsync", Source.MEASURED),
    Choice(("cifs", "smb3"), "direct+dsync", Source.MEASURED, owner_option="uid=UID,forceuid"),
    Choice(("fuse.glusterfs",), "direct+dsync", Source.MEASURED),
    Choice(("fuse.sshfs",), "direct+dsync", Source.MEASURED, owner_option="idmap=user"),
    Choice(("fuse.ceph-fuse",), "direct+dsync", Source.MEASURED),
    # Without a pause between reads two sides waited for ever after 24 to 61 rounds, as if
    # the reading itself kept the client's cache valid; with 1 ms never in 1,500.
    Choice(("fuse.mfs", "moosefs"), "direct+dsync", Source.MEASURED, least_pause=0.001),
    # Their lock managers revoke a client's pages before another one may write there: polls
    # cost the servers nothing, and a sync would wait for disks that nobody asked about.
    Choice(("lustre", "gpfs", "gfs2", "ocfs2"), "held+plain", Source.DESIGN),
    # Ceph, "Capabilities in CephFS": the kernel's client caches only what it was allowed to;
    # fs/ceph/file.c, ceph_read_iter(): a direct reader does not ask for that.
    Choice(("ceph",), "direct+dsync", Source.DOCUMENTED),
    # BeeGFS, "Client Side Caching Modes": buffers some hundred KiB of a file in each client;
    # FhgfsOpsFile.c of its client: not of descriptors with O_DIRECT.
    Choice(("beegfs",), "direct+dsync", Source.DOCUMENTED),
    # Linux, 9p.rst, cache=: loose validates nothing. virtiofsd, CachePolicy: auto does only in
    # open. O_DIRECT goes past both: fs/9p/fid.h, fs/fuse/file.c.
    Choice(("9p", "virtiofs"), "direct+dsync", Source.DOCUMENTED),
    # fs/vboxsf/file.c: keeps pages until the next open, has no O_DIRECT, writes through at once.
    Choice(("vboxsf",), "dontneed+plain", Source.DOCUMENTED, owner_option="uid=UID"),
)

OTHERWISE: Final = Choice((), "direct+dsync", Source.SAFEST)

_BY_TYPE: Final = {name: choice for choice in CHOICES for name in choice.types}


_READS: Final = ("direct", "dontneed", "statx", "reopen")
_WRITES: Final = ("plain", "dsync", "fdatasync", "close")


def choice_for(filesystem_type: str, source: str = "") -> Choice:
    """Look up what is chosen for a filesystem of that type, mounted from `source`."""
    if filesystem_type == "fuse" and source.startswith("mfs#"):
        filesystem_type = "fuse.mfs"  # mfsmount has no type of its own
    return _BY_TYPE.get(filesystem_type, OTHERWISE)


def other_reads(name: str) -> tuple[str, ...]:
    """Name the strategies that may see more than the one of that name, the likeliest first."""
    return tuple(other for other in _READS if other != name)


def stronger_write(name: str) -> str | None:
    """Name the strategy that makes more sure than the one of that name; None after the last."""
    following = _WRITES.index(name) + 1 if name in _WRITES else 1
    return _WRITES[following] if following < len(_WRITES) else None
