"""The NFS client's counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from muxfs.doctor import mountstats
from muxfs.doctor.mountstats import difference, parse_counts, read_counts

TEXT = """\
device proc mounted on /proc with fstype proc
device nas:/home mounted on /home with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2
\tage:\t30
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 17 17 0 3000 70000 0 5 5 0
\t       WRITE: 4 4 0 9000 500 0 3 3 0

device nas:/other mounted on /my\\040home with fstype nfs statvers=1.1
\tper-op statistics
\t     GETATTR: 3 3 0 400 300 0 1 1 0
device sysfs mounted on /sys with fstype sysfs
"""


def test_counts_of_a_mount() -> None:
    assert parse_counts(TEXT, "/home") == {"NULL": 1, "READ": 17, "WRITE": 4}
    assert parse_counts(TEXT, "/my home") == {"GETATTR": 3}


@pytest.mark.parametrize("mount_point", ["/proc", "/sys", "/elsewhere", "/hom"])
def test_filesystems_that_do_not_count(mount_point: str) -> None:
    assert parse_counts(TEXT, mount_point) is None


def test_of_mounts_over_one_another_the_last_one_counts() -> None:
    above = TEXT.replace("/my\\040home", "/home")
    assert parse_counts(above, "/home") == {"GETATTR": 3}


def test_what_happened_between() -> None:
    assert difference({"READ": 3, "WRITE": 1}, {"READ": 5, "WRITE": 1, "OPEN": 1}) == {
        "READ": 2,
        "OPEN": 1,
    }
    assert difference(None, {"READ": 5}) is None


def test_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mountstats, "MOUNTSTATS", str(tmp_path / "missing"))
    assert read_counts("/home") is None
