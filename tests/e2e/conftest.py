"""Fixtures of the end-to-end tests, and a limit in time for each of them."""

from __future__ import annotations

import faulthandler
import functools
import inspect
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from .process import Tunnel, open_tunnel

LIMIT = 180.0
"""Seconds that one test may take: far above what any needs, to fail instead of hanging."""

TMPFS = Path("/dev/shm")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    here = Path(__file__).parent in item.path.parents
    if here and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**fixtures: object) -> None:
        with trio.fail_after(LIMIT):
            await test(**fixtures)

    return run


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
async def tunnel(place: Path, tmp_path: Path) -> AsyncIterator[Tunnel]:
    """Give a tunnel that nothing runs on yet."""
    async with open_tunnel(place, tmp_path) as tunnel:
        yield tunnel
