"""Connections that commands carry; with real ones: tests/e2e/test_local.py."""

from __future__ import annotations

import pytest
import trio

from muxfs.core.wire import Code
from muxfs.forwards.commands import CommandCarrier
from muxfs.forwards.events import Refused

from .harness import Log, pair


@pytest.mark.usefixtures("no_threads")
async def test_without_a_thread_one_client_is_reset_and_nothing_else_ends() -> None:
    log = Log()
    outer, connection = pair()
    outcome = await CommandCarrier(["cat"], log, print, 1).join(connection, "cat", "client", 1)
    reason = "cannot run cat: can't start new thread"
    assert outcome == Refused("client", "cat", Code.REFUSED, reason)
    assert log.events == [outcome]
    with pytest.raises(trio.BrokenResourceError):
        await outer.receive_some()
    await outer.aclose()
