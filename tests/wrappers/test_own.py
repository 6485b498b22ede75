"""The logs of helpers that have no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muxfs.slurm import own

HELPER = """
import sys
from muxfs.slurm import own
log = own.log("slurm-1.log")
print("made", flush=True)
sys.stdin.read()
"""


def test_the_log_of_a_killed_helper_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as helper:
        assert helper.stdout is not None
        assert helper.stdout.readline() == b"made\n"
        (tmp_path / "muxfs" / "ab-listen-0.log").touch()
        second = own.log("slurm-2.log")
        os.write(second, b"told")
        assert _logs(tmp_path) == ["ab-listen-0.log", "slurm-1.log", "slurm-2.log"]
        helper.kill()
    third = own.log("slurm-3.log")
    assert _logs(tmp_path) == ["ab-listen-0.log", "slurm-2.log", "slurm-3.log"]
    assert (tmp_path / "muxfs" / "slurm-2.log").read_bytes() == b"told"
    os.close(second)
    os.close(third)


def test_a_log_begins_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last one of that name is still held."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = own.log("slurm-1.log")
    os.write(first, b"old")
    second = own.log("slurm-1.log")
    os.write(second, b"new")
    assert (tmp_path / "muxfs" / "slurm-1.log").read_bytes() == b"new"
    os.close(first)
    os.close(second)


def test_a_helper_starts_whatever_modules_set_for_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the job of a batch script, for instance, which has another environment."""
    line = own.shell("version")
    monkeypatch.setenv("PYTHONHOME", "/no/such/python")
    monkeypatch.setenv("PYTHONPATH", "/no/such/place")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "PYTHONHOME" not in own.environment()


def _logs(runtime: Path) -> list[str]:
    return sorted(path.name for path in (runtime / "muxfs").iterdir())
