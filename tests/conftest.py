"""What all tests have in common."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
import trio
from hypothesis import settings

# a busy machine takes longer for an example than hypothesis allows, and that says nothing
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def runtime_directory() -> Iterator[str]:
    """Keep the control sockets of ends that tests start away from those of the user."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    path = os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="muxfs-tests-")
    yield path
    shutil.rmtree(path)
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def _bytecode() -> Iterator[None]:
    """Have the hundreds of commands that tests start not compile every module again.

    Where Python is told to write no bytecode, that is half of a command's start.
    """
    if not os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="muxfs-tests-") as path:
        os.chmod(path, 0o755)  # some commands run as another user
        os.environ["PYTHONPYCACHEPREFIX"] = path
        yield
    del os.environ["PYTHONPYCACHEPREFIX"]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Have commands that tests start end by signals also under nohup or behind a shell's `&`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trio start no thread, as for a user who has used up the processes of a login node."""

    async def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", none_left)
