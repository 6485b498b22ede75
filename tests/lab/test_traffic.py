"""Bytes across a real network filesystem, between two clients with caches of their own."""

from __future__ import annotations

import pytest

from .ends import Ends


@pytest.mark.parametrize(("connections", "mebibytes"), [(2, 5), (10, 50)])
async def test_full_duplex(ends: Ends, connections: int, mebibytes: int) -> None:
    """Each connection carries as much in either direction at once; checked by sha256."""
    port = await ends.up()
    await ends.measure("duplex", port, connections, mebibytes)


async def test_short_requests(ends: Ends) -> None:
    """500 requests by 16 workers."""
    port = await ends.up()
    await ends.measure("requests", port, 500, 16)


LONGEST = 65
"""Seconds: even attributes of directories have expired by then (acdirmax: 60)."""


async def test_light_traffic_never_sticks(ends: Ends, long_run: bool) -> None:
    """Idle, then a burst, over and over: what 30 minutes of light traffic would have of it."""
    port = await ends.up()
    await ends.measure("light", port, 600, LONGEST if long_run else 0)
