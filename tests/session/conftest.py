"""A standing session in simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from tests.session.tunnel import Tunnel, open_tunnel


@pytest.fixture
async def tunnel() -> AsyncIterator[Tunnel]:
    """The test itself must ask for `autojump_clock`: pytest-trio takes it from there only."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock)
    async with open_tunnel() as tunnel:
        yield tunnel
