"""A limit in time for each test: these wait for real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.limit import limit_tests_below


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    limit_tests_below(Path(__file__).parent, item)
