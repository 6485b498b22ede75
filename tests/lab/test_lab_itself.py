"""The lab's own parts that need neither root nor packages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from . import packages
from .__main__ import main
from .catalogue import ALL, FILESYSTEMS, lab
from .lab import Spec
from .nfs import parse_mountstats
from .remote import LabError
from .traffic import PAUSES, light_pauses

MOUNTSTATS = """\
device proc mounted on /proc with fstype proc
device server:/small mounted on /mnt/small with fstype nfs4 statvers=1.1
\tper-op statistics
\t        READ: 99 99 0 1 1 1 1 1 0
device server:/home mounted on /mnt/home with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2
\tage:\t60
\tbytes:\t1 2 3 4 5 6 7 8
\tper-op statistics
\t        NULL: 0 0 0 0 0 0 0 0 0
\t        READ: 12 12 0 2208 50736 0 3 3 0
\t       WRITE: 5 5 0 21000 800 0 9 9 0
"""


def test_operations_are_counted_for_one_mount() -> None:
    assert parse_mountstats(MOUNTSTATS, "/mnt/home") == {"READ": 12, "WRITE": 5}


def test_names() -> None:
    assert Spec.parse("nfs4.2+noac") == Spec("nfs4.2", ("noac",))
    assert str(Spec.parse("nfs3+actimeo=60")) == "nfs3+actimeo=60"
    for name in ALL:
        assert str(lab(name, Path("/nowhere")).spec) == name


@pytest.mark.parametrize("name", ["", "nfs5", "nfs3+", "../nfs3"])
def test_unknown_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LabError):
        lab(name, Path("/nowhere"))
    assert main(["up", name]) == 1
    assert capsys.readouterr().err.startswith("lab: ")


def test_light_traffic_is_idle_for_longer_than_caches_last() -> None:
    acregmin, acdirmax = 3.0, 60.0
    pauses = list(light_pauses(600, 0))
    assert len(pauses) == 600
    assert sum(pause > acregmin for pause in pauses) >= 3
    assert 35 < sum(pauses) < 45  # and some ms a round
    assert pauses[-1] <= max(PAUSES)  # a burst comes after each
    longer = list(light_pauses(600, 65))
    assert [pause for pause in longer if pause > acdirmax] == [65.0]
    assert longer[-1] <= max(PAUSES)


def test_without_arguments_it_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(tables: Sequence[Mapping[str, str]]) -> None:
        if packages.SMB in tables:
            raise LabError("the lab needs smbd: apt-get install --no-install-recommends samba")

    monkeypatch.setattr(packages, "check", check)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "smb: the lab needs smbd: apt-get install --no-install-recommends samba" in lines
    (ready,) = (line for line in lines if line.startswith("ready: "))
    assert ready.split()[1:] == [name for name in FILESYSTEMS if name != "smb"]


def test_missing_programs_are_told_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda program, path: None)
    with pytest.raises(LabError, match=r"needs mount.nfs, .*: apt-get install .* nfs-common"):
        packages.check([packages.NFS])


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(LabError, match="run it as root"):
        packages.check([packages.GUESTS])
