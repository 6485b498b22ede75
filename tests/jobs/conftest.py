"""A Slurm that says what a test wants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Runner, running

from .fake import Slurm


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run in a job."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SQUEUE_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Give Slurm's commands, first on PATH."""
    place = tmp_path / "slurm"
    place.mkdir()
    slurm = Slurm(place)
    slurm.make()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return slurm


@pytest.fixture
def muxfs(tmp_path: Path) -> Iterator[Runner]:
    """Give a runner with an own home."""
    yield from running(tmp_path / "home")
