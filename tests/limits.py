"""A limit in time for asynchronous tests that run real processes: they fail instead of hanging."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio


def bound(item: pytest.Item, directory: Path, seconds: float) -> None:
    """Put the limit around a test, if it is an asynchronous one of that directory."""
    here = directory in item.path.parents
    if here and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _bounded(item.obj, seconds)


def _bounded(
    test: Callable[..., Awaitable[None]], seconds: float
) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**fixtures: object) -> None:
        with trio.fail_after(seconds):
            await test(**fixtures)

    return run
