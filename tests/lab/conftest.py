"""Which labs the tests of this directory run in: those that MUXFS_LAB asks for.

MUXFS_LAB=nfs3,nfs4.2+noac pytest tests/lab        MUXFS_LAB=all pytest tests/lab

With all, or with MUXFS_LAB_LONG=1, tests also do what takes a minute more.
"""

from __future__ import annotations

import faulthandler
import os
import re
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import trio

from tests.limits import bound

from . import catalogue
from .ends import Ends, open_ends
from .lab import Lab, Unsupported

VARIABLE = "MUXFS_LAB"
LONG = "MUXFS_LAB_LONG"
NOT_ASKED = (
    f"real network filesystems need root and some packages: {VARIABLE}=nfs3,nfs4.2 (docs/lab.md)"
)
LIMIT = 300.0
"""Seconds that one test may take."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    bound(item, Path(__file__).parent, LIMIT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a lab in each of those that are asked for."""
    if "lab" in metafunc.fixturenames:
        asked = os.environ.get(VARIABLE, "")
        names = catalogue.ALL if asked == "all" else [n for n in asked.split(",") if n]
        skipped = pytest.param("", marks=pytest.mark.skip(reason=NOT_ASKED), id="lab")
        metafunc.parametrize("lab", names or [skipped], indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that needs what its lab does not have."""
    try:
        yield
    except Unsupported as error:
        pytest.skip(str(error))
    except ExceptionGroup as group:  # of the nursery of `ends`
        if (found := _first(group)) is None:
            raise
        pytest.skip(str(found))


def _first(error: BaseException) -> Unsupported | None:
    """Find what the lab does not have in what a nursery raised, if it raised nothing else."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _first(error.exceptions[0])
    return error if isinstance(error, Unsupported) else None


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a lab, which all tests of its filesystem share."""
    lab = catalogue.lab(request.param, tmp_path_factory.mktemp("lab") / "cell")
    trio.run(lab.up)
    yield lab
    lab.down()


@pytest.fixture
async def ends(lab: Lab, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    """Give a tunnel between the two clients that nothing runs on yet."""
    directory = lab.clients[0].path / re.sub(r"\W+", "-", request.node.name)
    async with open_ends(lab, directory, tmp_path) as ends:
        yield ends


@pytest.fixture(scope="session")
def long_run() -> bool:
    """Whether there is time for what is only seldom, or slow."""
    return os.environ.get(VARIABLE) == "all" or bool(os.environ.get(LONG))


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    # The last resort, for a test that is stuck where trio cannot cancel it.
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
