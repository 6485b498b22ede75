"""Bytes across a real network filesystem, between two clients with caches of their own."""

from __future__ import annotations

import pytest

from .ends import Ends


@pytest.mark.parametrize(("connections", "mebibytes"), [(2, 5), (10, 50)])
async def test_full_duplex(ends: Ends, connections: int, mebibytes: int) -> None:
    """Each connection carries as much in either direction at once; checked by sha256."""
    port = await ends.up()
    print(await ends.work("duplex", port, connections, mebibytes))
