"""A limit in time for each test: these wait for real sockets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

LIMIT = 60.0


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
