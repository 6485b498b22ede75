"""What is measured on this host's own filesystems."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from muxfs.doctor import locks, space
from muxfs.doctor.findings import Finding, Verdict
from muxfs.doctor.host import examine, survey
from muxfs.doctor.locks import Answer
from muxfs.doctor.patience import Halted, Patience
from muxfs.storage.filesystem import find_filesystem

MIB = 1 << 20


def look(path: Path, ring: int = MIB) -> dict[str, Finding]:
    filesystem = find_filesystem(str(path))
    found = [
        *survey(str(path), filesystem, ring),
        *examine(str(path), filesystem, ring, Patience()),
    ]
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize("where", ["place", "tmp_path"])
def test_all_is_looked_at_and_nothing_stays(where: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(where)
    found = look(path)
    assert list(found) == ["filesystem", "mount", "space", "files", "write", "read", "locks"]
    assert Verdict.PROBLEM not in {finding.verdict for finding in found.values()}
    assert {"dsync", "fdatasync", "close"} <= set(found["write"].facts)
    assert {"direct", "dontneed", "statx", "reopen"} <= set(found["read"].facts)
    assert found["files"].facts["size"] == MIB
    assert os.listdir(path) == []


def test_it_can_be_halted(place: Path) -> None:
    patience = Patience()
    patience.halt()
    with pytest.raises(Halted):
        list(examine(str(place), find_filesystem(str(place)), MIB, patience))
    assert os.listdir(place) == []


def test_a_file_in_the_way(place: Path) -> None:
    (place / "doctor").write_text("mine")
    found = look(place)
    assert found["files"].verdict is Verdict.PROBLEM
    assert "Not a directory" in found["files"].found


def test_space_is_that_of_the_filesystem(place: Path) -> None:
    state = os.statvfs(place)
    free = space.look(str(place)).free
    assert free is not None
    assert free <= state.f_blocks * state.f_frsize


def test_a_filesystem_of_no_blocks_tells_no_space(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CephFS soon after its start, by ceph-fuse."""
    told = os.statvfs_result((4096, 4096, 0, 0, 0, 2, -1, -1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: told)
    found = space.look(str(place))
    assert (found.free, found.inodes) == (None, None)


def test_a_lock_of_this_process_keeps_another_one_out(place: Path) -> None:
    path = place / "file"
    with path.open("w") as file:
        assert locks.try_from_another_process(str(path)) is Answer.GRANTED
        assert locks.try_lock(file.fileno()) is Answer.GRANTED
        assert locks.try_from_another_process(str(path)) is Answer.REFUSED
        locks.unlock(file.fileno())
        assert locks.try_from_another_process(str(path)) is Answer.GRANTED


def test_lock_calls_that_do_not_return(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFSv3 does without a lock manager."""
    path = place / "file"
    path.touch()
    returns = threading.Event()
    monkeypatch.setattr(locks, "LIMIT", 0.1)
    monkeypatch.setattr(locks, "LIMIT_OF_PROCESS", 0.1)
    monkeypatch.setattr(locks, "_TRY", "import time; time.sleep(60)")
    assert locks.try_from_another_process(str(path)) is Answer.SILENT
    monkeypatch.setattr(fcntl, "lockf", lambda *_: returns.wait())
    assert locks.try_lock(0) is Answer.SILENT
    returns.set()


def test_there_is_no_such_file(place: Path) -> None:
    assert locks.try_from_another_process(str(place / "missing")) is Answer.FAILED
