"""What an end does where a user may start no more threads, as on a full login node."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from muxfs.cli import readiness, telling
from muxfs.forwards.spec import Target

PATIENCE = 30.0


async def test_a_service_is_found_as_soon_as_there_is_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = 0
    real = trio.to_thread.run_sync

    async def run_sync(*arguments: Any, **options: Any) -> Any:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise RuntimeError("can't start new thread")
        return await real(*arguments, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with socket.create_server(("127.0.0.1", 0)) as service, trio.fail_after(PATIENCE):
        target = Target("localhost", service.getsockname()[1])
        assert await readiness.wait_listening(target) is not None
    assert refused == 2


@pytest.mark.usefixtures("no_threads")
async def test_the_short_name_of_this_host_serves_without_a_thread() -> None:
    assert await telling._full_name() == socket.gethostname()
