"""`muxfs slurm follow`, as wrappers and plugin start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import fake
from .fake import Slurm


def test_it_removes_nothing_of_the_users(slurm: Slurm, tmp_path: Path) -> None:
    """The administrator's directory may be one where the job works; its log may be named so."""
    slurm.says("squeue", fake.job(7, "COMPLETED", uid=os.geteuid()))
    (tmp_path / "7" / "sessions" / "0").mkdir(parents=True)
    (tmp_path / "7" / "sessions" / "0" / "dial.mbx").touch()
    (tmp_path / "7" / "results").write_text("of a week")
    (tmp_path / "slurm-7.log").write_text("of the job\n")
    where = ("--job=7", f"--submitter={os.getpid()}", f"--dir={tmp_path}/%j")
    words = ("slurm", "follow", "srun", "--tunnel=8001:8000", *where)
    with (tmp_path / "slurm-7.log").open("a") as log:
        subprocess.run([sys.executable, "-m", "muxfs", *words], stderr=log, check=True)
    assert [found.name for found in (tmp_path / "7").iterdir()] == ["results"]
    assert (tmp_path / "slurm-7.log").read_text() == "of the job\n"
