"""Directories on the filesystems at hand, and strategies that hang on demand."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import trio

from muxfs.storage.access import FdatasyncWrite, HeldRead
from muxfs.storage.posix import PosixStorage

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PATIENCE = 120  # seconds until a hanging test is given up; long, for others may keep the disk busy


def held_open(directory: str | Path) -> list[str]:
    """Names of the files in `directory` that this process holds open."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(f"{directory}/"):
            found.append(os.path.basename(target))
    return sorted(found)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory on tmpfs."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(params=["memory", "disk"])
def directory(request: pytest.FixtureRequest) -> Path:
    """A directory on tmpfs, then one on whatever the temporary files are on."""
    path: Path = request.getfixturevalue("memory_path" if request.param == "memory" else "tmp_path")
    return path


class Gate:
    """Stands for a dead server: who comes through hangs in its thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def enter(self) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE), "nobody opened the gate"

    async def wait_entered(self) -> None:
        assert await trio.to_thread.run_sync(self.entered.wait, PATIENCE)


class GatedRead(HeldRead):
    name = "gated"

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        self.gate.enter()
        return super().read(descriptor, offset, length)


class GatedWrite(FdatasyncWrite):
    """Hangs at writes of `GatedWrite.stuck` only, so that preparing goes through."""

    name = "gated"
    stuck = b"stuck"

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def write(self, descriptor, offset, buffers) -> None:
        if bytes(buffers[0]) == self.stuck:
            self.gate.enter()
        super().write(descriptor, offset, buffers)


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in a thread or on a filesystem, where no event tells."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def wait_threads_gone(storage: PosixStorage) -> None:
    """Wait until no thread of the storage runs, abandoned ones included."""
    await wait_until(lambda: not storage._ground.crew.limiter.borrowed_tokens)


@contextlib.contextmanager
def os_error(expected: int) -> Iterator[None]:
    """Expect an OSError of this errno."""
    with pytest.raises(OSError, match=re.escape(f"[Errno {expected}]")):
        yield
