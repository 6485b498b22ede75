"""Changing the strategies of real files while they are used."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from muxfs.storage import filesystem
from muxfs.storage.access import READS, WRITES, Access
from muxfs.storage.choices import Choice, Source, other_reads
from muxfs.storage.posix import PosixStorage

from .conftest import held_open

SIZE = 65536


@pytest.fixture
def network(monkeypatch) -> None:
    """Let every directory seem to lie on NFS, with plain reads and writes as the choice."""
    choice = Choice(("nfs4",), "held+plain", Source.MEASURED)
    monkeypatch.setattr(filesystem, "choice_for", lambda *_: choice)


async def test_other_strategies_are_offered_where_the_choice_may_be_wrong(
    tmp_path: Path, network: None
) -> None:
    near = PosixStorage(tmp_path, "near", "far")
    assert (near.reader.others, near.writer.stronger, near.strategy) == ((), None, "")
    await near.writer.prepare(SIZE)

    assert near.strategy == "held+plain"
    assert near.reader.others == other_reads("held")
    assert near.writer.stronger == "dsync"
    await near.aclose()


async def test_what_the_user_asked_for_is_never_changed(tmp_path: Path, network: None) -> None:
    near = PosixStorage(tmp_path, "near", "far", Access.named("held+plain"))
    await near.writer.prepare(SIZE)
    assert (near.reader.others, near.writer.stronger) == ((), None)
    await near.aclose()


async def test_on_one_kernel_there_is_nothing_to_change(directory: Path) -> None:
    near = PosixStorage(directory, "near", "far")
    await near.writer.prepare(SIZE)
    assert (near.reader.others, near.writer.stronger) == ((), None)
    await near.aclose()


async def test_adopted_strategies_are_used(tmp_path: Path, network: None) -> None:
    near, far = PosixStorage(tmp_path, "near", "far"), PosixStorage(tmp_path, "far", "near")
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"content"])
    assert await far.reader.read(0, 7) == b"content"
    for strategy in READS:
        await far.reader.adopt(strategy)
        assert far.reader.strategy == strategy
        assert far.reader._file.read.name == strategy
        assert await far.reader.read(0, 7) == b"content"
    for strategy in WRITES:
        await near.writer.adopt(strategy)
        assert near.writer.strategy == strategy
        with near.writer._file.writing as descriptor:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        assert bool(flags & os.O_DSYNC) is (strategy == "dsync")
        await near.writer.write(0, [strategy.encode().ljust(SIZE, b".")])
        assert await near.writer.read_back(0, SIZE) == strategy.encode().ljust(SIZE, b".")
    await near.aclose()
    await far.aclose()
    assert not held_open(tmp_path)


async def test_a_strategy_that_no_file_could_be_opened_with_is_not_in_use(
    tmp_path: Path, network: None
) -> None:
    near, far = PosixStorage(tmp_path, "near", "far"), PosixStorage(tmp_path, "far", "near")
    await near.writer.prepare(SIZE)
    assert len(await far.reader.read(0, 7)) == 7
    (tmp_path / "near").unlink()
    (tmp_path / "near").symlink_to("elsewhere")
    for change in (far.reader.adopt("direct"), near.writer.adopt("dsync")):
        with pytest.raises(OSError, match="must not be a symbolic link; remove it"):
            await change
    assert (far.reader.strategy, near.writer.strategy) == ("held", "plain")
    assert (far.reader.others, near.writer.stronger) == (other_reads("held"), "dsync")
    await near.aclose()
    await far.aclose()


async def test_a_second_opinion_is_of_the_file_that_is_held(tmp_path: Path, network: None) -> None:
    near, far = PosixStorage(tmp_path, "near", "far"), PosixStorage(tmp_path, "far", "near")
    assert await far.reader.read_by("direct", [(0, 3), (4, 5)]) == [b"", b""]
    await near.writer.prepare(SIZE)
    await near.writer.write(0, [b"old file"])
    await far.reader.read(0, 3)
    (tmp_path / "other").write_bytes(b"new file")
    os.rename(tmp_path / "other", tmp_path / "near")
    before = far.operations.total

    for strategy in far.reader.others:
        assert await far.reader.read_by(strategy, [(0, 3), (4, 4)]) == [b"old", b"file"]
    assert far.operations.reads >= 9
    assert far.operations.total - before <= 4 * 5
    await near.aclose()
    await far.aclose()
    assert not held_open(tmp_path)


async def test_adopting_at_a_file_that_is_gone(tmp_path: Path, network: None) -> None:
    near, far = PosixStorage(tmp_path, "near", "far"), PosixStorage(tmp_path, "far", "near")
    await near.writer.prepare(SIZE)
    await far.reader.adopt("direct")
    os.unlink(tmp_path / "near")
    await far.reader.adopt("dontneed")
    assert len(await far.reader.read(0, 3)) == 3  # what is held, until there is another
    await near.aclose()
    await far.aclose()
