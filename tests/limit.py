"""A limit in time for asynchronous tests that wait for real sockets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

LIMIT = 60.0


def limit_tests_below(directory: Path, item: pytest.Item) -> None:
    """Put the limit around the test, if it is an asynchronous one of the directory."""
    below = directory in item.path.parents
    if below and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        if "autojump_clock" in item.fixturenames:
            return  # waits in simulated time
        item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**fixtures: object) -> None:
        with trio.fail_after(LIMIT):
            await test(**fixtures)

    return run
