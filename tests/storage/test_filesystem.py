"""Identification from mountinfo, and the choice that follows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muxfs.storage import filesystem
from muxfs.storage.choices import Kind
from muxfs.storage.filesystem import (
    UNKNOWN,
    Filesystem,
    choose_mount,
    default_access,
    find_filesystem,
    guess_filesystem,
    parse_mount,
    read_mounts,
    statfs_type,
)

MOUNTINFO = rb"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684084k
60 27 0:50 / /home rw,relatime shared:7 master:1 - autofs /etc/auto.home rw,fd=7
61 60 0:51 / /home rw,relatime - nfs4 nas1:/home rw,vers=4.2,rsize=1048576,hard,proto=tcp
62 27 0:52 / /home2 rw - nfs nas1:/home2 rw,vers=3,noac
63 27 0:53 / /mnt/my\040disk\134x rw - fuse.sshfs ann@host:/a\011b rw,user_id=0
64 27 254:0 /srv/data /data rw,relatime - ext4 /dev/vda rw
65 27 0:54 / /pool rw - btrfs /dev/vdb rw,subvol=/pool
garbage
1 2 nonsense / / rw - ext4 /dev/x rw
1 2 3:4 / /
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch) -> list[tuple[int, Filesystem]]:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    monkeypatch.setattr(filesystem, "MOUNTINFO", str(tmp_path / "mountinfo"))
    return read_mounts()


def test_malformed_lines_are_passed_over(mounts) -> None:
    assert len(mounts) == 9


@pytest.mark.parametrize(
    ("path", "device", "expected"),
    [
        ("/etc/passwd", None, "/"),
        ("/", None, "/"),
        ("/dev/shm", None, "/dev/shm"),
        ("/dev/shm/x/y", None, "/dev/shm"),
        ("/home/ann/.muxfs", None, "/home"),
        ("/home2/ann", None, "/home2"),  # not /home
        ("/homestead", None, "/"),
        ("/mnt/my disk\\x/y", None, "/mnt/my disk\\x"),
        ("/data/x", (254, 0), "/data"),  # a bind mount of the same device
        ("/etc", (254, 0), "/"),
        ("/home/ann", (254, 0), "/"),  # the mount at /home is hidden or not there
        ("/pool/sub", (0, 999), "/pool"),  # btrfs: a number that no mount has
        ("/elsewhere", (0, 51), "/home"),  # known by its number alone
    ],
)
def test_choice_of_the_mount(mounts, path: str, device, expected: str) -> None:
    number = None if device is None else os.makedev(*device)

    assert choose_mount(mounts, path, number).mount_point == expected


def test_later_of_two_mounts_on_one_point(mounts) -> None:
    assert choose_mount(mounts, "/home", None).type == "nfs4"


def test_no_mount_at_all(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(filesystem, "MOUNTINFO", str(tmp_path / "missing"))

    assert guess_filesystem("/x") == UNKNOWN
    assert UNKNOWN.kind is Kind.NETWORK
    assert find_filesystem(str(tmp_path)).type == statfs_type(str(tmp_path))


def test_options_of_mount_and_superblock_each_once() -> None:
    parsed = parse_mount(rb"1 2 8:1 / /a rw,noatime - ext4 /dev/x rw,discard")

    assert parsed == (
        os.makedev(8, 1),
        Filesystem("ext4", "/dev/x", "/a", ("rw", "noatime", "discard")),
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home", "nfs4 (nas1:/home), vers=4.2, proto=tcp"),
        ("/home2", "nfs (nas1:/home2), vers=3, noac"),
        ("/dev/shm", "tmpfs"),
        ("/", "ext4 (/dev/vda)"),
        ("/mnt/my disk\\x", "fuse.sshfs (ann@host:/a?b)"),  # a tab must not reach a terminal
    ],
)
def test_description_for_people(mounts, path: str, expected: str) -> None:
    assert choose_mount(mounts, path, None).describe() == expected


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("tmpfs", "tmpfs", "tmpfs"),
        ("fuse.sshfs", "fuse", "fuse.sshfs"),  # what mountinfo says is more
        ("ext4", "nfs", "nfs"),  # a mount that is hidden from this process
        ("ext4", None, "ext4"),
        ("unknown", "lustre", "lustre"),
        ("unknown", None, "unknown"),
    ],
)
def test_statfs_is_asked_whether_it_is_true(monkeypatch, name: str, said, expected: str) -> None:
    found = UNKNOWN if name == "unknown" else Filesystem(name, "source", "/x")
    monkeypatch.setattr(filesystem, "choose_mount", lambda *_: found)
    monkeypatch.setattr(filesystem, "statfs_type", lambda _path: said)

    assert find_filesystem("/").type == expected


def test_statfs(memory_path: Path) -> None:
    assert statfs_type(str(memory_path)) == "tmpfs"
    assert statfs_type("/proc/self") is None
    assert statfs_type(str(memory_path / "missing")) is None


def test_real_mounts(memory_path: Path) -> None:
    assert find_filesystem(str(memory_path)).kind is Kind.MEMORY
    assert guess_filesystem(str(memory_path)).kind is Kind.MEMORY
    assert find_filesystem("/proc/self").type == "proc"


def test_default_access_is_the_choice() -> None:
    assert default_access(Filesystem("lustre", "", "/")).name == "held+plain"
    assert default_access(UNKNOWN).name == "direct+dsync"


def test_symlink_leads_to_the_filesystem_it_points_to(tmp_path: Path, memory_path: Path) -> None:
    os.symlink(memory_path, tmp_path / "link")

    assert find_filesystem(str(tmp_path / "link")).kind is Kind.MEMORY


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_filesystem(str(tmp_path / "missing"))
