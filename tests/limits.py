"""A limit in time for asynchronous tests of sockets and processes: they fail instead of hanging."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio


def bound(item: pytest.Item, directory: Path, seconds: float) -> None:
    """Put the limit around a test, if it is an asynchronous one of that directory.

    Those of simulated time go without.
    """
    if directory not in item.path.parents or not isinstance(item, pytest.Function):
        return
    if inspect.iscoroutinefunction(item.obj) and "autojump_clock" not in item.fixturenames:
        item.obj = _bounded(item.obj, seconds)


def _bounded(
    test: Callable[..., Awaitable[None]], seconds: float
) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**fixtures: object) -> None:
        with trio.fail_after(seconds):
            await test(**fixtures)

    return run
