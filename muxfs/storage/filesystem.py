"""Which filesystem a path lies on, and how mailboxes on it are read and written.

Identified from `/proc/self/mountinfo` (proc(5)): statfs gives only a number, for all
of NFS and all of FUSE the same one. It is asked where there is no `/proc`, and
whether a filesystem that seems local really is.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Final

import attrs

from muxfs.storage.access import Access
from muxfs.storage.choices import Choice, Kind, choice_for

MOUNTINFO: Final = "/proc/self/mountinfo"

MAGICS: Final = {
    0x6969: "nfs",
    0x517B: "cifs",
    0xFF534D42: "cifs",
    0xFE534D42: "cifs",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x01021997: "9p",
    0x786F4256: "vboxsf",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0x794C7630: "overlay",
    0xF2F52010: "f2fs",
}
"""What statfs(2) says; ext2 and ext3 have the number of ext4, virtiofs that of FUSE."""

# The mount options that explain what people see; the other thirty do not.
_TELLING: Final = frozenset(
    {"ac", "cache", "dir_cache", "lookupcache", "noac", "nolock", "proto", "ro", "soft", "sync"}
    | {"vers"}
)


@attrs.frozen
class Filesystem:
    """A mounted filesystem, as `/proc/self/mountinfo` tells it."""

    type: str
    """Such as `nfs4`, `ext4`, `fuse.sshfs`; "unknown" where nothing could be found out."""
    source: str
    """The server and export, or the device; may be anything, also empty."""
    mount_point: str
    options: tuple[str, ...] = ()
    """Mount options, the mount's own first, then the superblock's; each once."""

    choice: Choice = attrs.field(init=False, eq=False, repr=False)
    """How mailboxes are read and written there at first."""

    @choice.default
    def _choose(self) -> Choice:
        return choice_for(self.type, self.source)

    @property
    def kind(self) -> Kind:
        """Whether this host's kernel is the only one to change its files; unknown counts as not."""
        return self.choice.kind

    def describe(self) -> str:
        """Describe it shortly for people: `nfs4 (nas1:/home), vers=4.2`."""
        source = "" if self.source in ("", "none", self.type) else f" ({self.source})"
        telling = [option for option in self.options if option.partition("=")[0] in _TELLING]
        return _printable(", ".join([self.type + source, *telling]))


UNKNOWN: Final = Filesystem(type="unknown", source="", mount_point="/")


def find_filesystem(path: str) -> Filesystem:
    """Find out on which filesystem `path` lies. Blocks while its server is down.

    Raises OSError where `path` does not exist.
    """
    device = os.stat(path).st_dev
    found = choose_mount(read_mounts(), os.path.realpath(path), device)
    told = statfs_type(path)
    if told is not None and (found is UNKNOWN or choice_for(told).kind is not found.kind):
        return attrs.evolve(UNKNOWN, type=told)  # no /proc, or a mount that a chroot hides
    return found


def guess_filesystem(path: str) -> Filesystem:
    """Find out the same from the name alone: never touches the filesystem, so never blocks.

    Wrong where a part of `path` is a symlink to elsewhere.
    """
    return choose_mount(read_mounts(), os.path.abspath(path), None)


def read_mounts() -> list[tuple[int, Filesystem]]:
    """Read all mounts with their device numbers, in the order in which they were mounted."""
    try:
        with open(MOUNTINFO, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []  # no /proc in this container: everything is unknown, hence treated safely
    return [mount for line in lines if (mount := parse_mount(line)) is not None]


def parse_mount(line: bytes) -> tuple[int, Filesystem] | None:
    """Parse one line of mountinfo into device number and filesystem; None if it is malformed.

    `36 35 98:0 /root /mount rw,noatime [tags...] - ext4 /dev/root rw,errors=continue`
    """
    mount, separator, superblock = line.partition(b" - ")
    left, right = mount.split(b" "), superblock.split(b" ")
    if not separator or len(left) < 6 or len(right) < 3:
        return None
    try:
        major, minor = map(int, left[2].split(b":"))
    except ValueError:
        return None
    options = dict.fromkeys([*left[5].split(b","), *right[2].split(b",")])
    filesystem = Filesystem(
        type=_decode(right[0]),
        source=_decode(right[1]),
        mount_point=_decode(left[4]),
        options=tuple(_decode(option) for option in options if option),
    )
    return os.makedev(major, minor), filesystem


def choose_mount(mounts: list[tuple[int, Filesystem]], path: str, device: int | None) -> Filesystem:
    """Choose the mount that holds the absolute `path`.

    The longest mount point wins, and of mounts over one another the latest. Mounts
    of `device` go first, for the name may be hidden or seen from elsewhere (bind
    mounts, chroot); btrfs and overlay report numbers that no mount has.
    """
    same = [mount for number, mount in mounts if number == device]
    above = [mount for _, mount in mounts if _holds(mount.mount_point, path)]
    for candidates in ([mount for mount in same if mount in above], same, above):
        if candidates:
            return max(reversed(candidates), key=lambda mount: len(mount.mount_point))
    return UNKNOWN


def statfs_type(path: str) -> str | None:
    """Name the filesystem by the number that statfs(2) gives; None for one that is not known."""
    try:
        statfs = ctypes.CDLL(None, use_errno=True).statfs
    except AttributeError:
        return None
    result = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes
    if statfs(os.fsencode(path), result):
        return None
    magic = ctypes.c_long.from_buffer(result).value  # f_type is its first field
    return MAGICS.get(magic & 0xFFFFFFFF)  # some have the highest bit, and come out negative


def owner_advice(path: str) -> str:
    """Say what to do where users do not see their own files as their own; "" if nothing is known.

    Raises OSError.
    """
    filesystem = find_filesystem(path)
    option = filesystem.choice.owner_option.replace("UID", str(os.geteuid()))
    if option:
        place = _printable(filesystem.mount_point)
        return f"if it is yours, mount {place} with the option {option}"
    if filesystem.type in {"nfs", "nfs4"} and os.geteuid() == 0:
        return "the server may squash root (root_squash): use another account than root"
    return ""


def default_access(filesystem: Filesystem) -> Access:
    """Make the strategies with which mailboxes there are read and written at first."""
    return filesystem.choice.make()


def _holds(mount_point: str, path: str) -> bool:
    return path == mount_point or path.startswith(mount_point.rstrip("/") + "/")


def _decode(field: bytes) -> str:
    r"""Undo the octal escapes of mountinfo (space, tab, newline and backslash: `\040`...)."""
    unescaped = re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), field)
    return os.fsdecode(unescaped)


def _printable(text: str) -> str:
    """Replace what could garble a terminal: the source of a mount is any string of its mounter."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
