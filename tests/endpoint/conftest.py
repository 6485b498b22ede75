"""A limit in time for each test: these wait for real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.limits import bound

LIMIT = 120.0
"""Seconds that one test may take: far above what any needs."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    bound(item, Path(__file__).parent, LIMIT)
