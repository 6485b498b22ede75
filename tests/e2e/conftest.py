"""Fixtures of the end-to-end tests, and a limit in time for each of them."""

from __future__ import annotations

import faulthandler
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from muxfs.sealing.files import create_key
from tests.limits import bound

from .process import Tunnel, open_tunnel

LIMIT = 180.0
"""Seconds that one test may take: far above what any needs, to fail instead of hanging."""

TMPFS = Path("/dev/shm")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    bound(item, Path(__file__).parent, LIMIT)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    # The last resort, for a test that is stuck where trio cannot cancel it.
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    # A test holds both ends of a thousand connections.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give the directory of a tunnel: on tmpfs, or where the test asks for it ("disk")."""
    kind = getattr(request, "param", "tmpfs")
    if kind == "disk" or not TMPFS.is_dir():
        yield tmp_path / "tunnel"
        return
    parent = Path(tempfile.mkdtemp(prefix="muxfs-e2e-", dir=TMPFS))
    yield parent / "tunnel"
    shutil.rmtree(parent)


@pytest.fixture
def options(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Give what both commands get: a key, where the test asks for it ("sealed")."""
    if getattr(request, "param", "plain") == "plain":
        return []
    create_key(tmp_path / "key")
    return ["--key-file", str(tmp_path / "key")]


@pytest.fixture
async def tunnel(place: Path, options: list[str], tmp_path: Path) -> AsyncIterator[Tunnel]:
    """Give a tunnel that nothing runs on yet."""
    async with open_tunnel(place, tmp_path) as tunnel:
        tunnel.options = options
        yield tunnel
