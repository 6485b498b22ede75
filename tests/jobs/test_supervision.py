"""The supervisor of a step, of which the process is no descendant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from muxfs.slurm import own, supervision


async def ended(descriptor: int) -> None:
    with trio.fail_after(60):
        await supervision.wait_ended(descriptor)


def test_a_supervisor_that_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is noticed; a number that has become another program's is not believed."""
    program = tmp_path / supervision.SUPERVISOR  # the kernel names a process after its file
    program.symlink_to("/bin/cat")
    with subprocess.Popen([program], stdin=subprocess.PIPE) as supervisor:
        monkeypatch.setenv(own.SUPERVISOR, str(supervisor.pid))
        descriptor = supervision.supervisor()
        assert descriptor is not None
        supervisor.kill()
        trio.run(ended, descriptor)
    assert supervision.supervisor() is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for told in (str(other.pid), str(os.getpid()), "", "x", "9" * 30):
            monkeypatch.setenv(own.SUPERVISOR, told)
            assert supervision.supervisor() is None
