"""Commands as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Runner, running


@pytest.fixture
def muxfs(tmp_path: Path) -> Iterator[Runner]:
    """Give a runner with an own home."""
    yield from running(tmp_path / "home")
