"""What sessions are measured by, in simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

import muxfs
from muxfs import workload
from muxfs.testing import MemoryFilesystem

LATENCY = 0.01
BANDWIDTH = 50e6


@asynccontextmanager
async def served(bandwidth: float | None = None) -> AsyncIterator[muxfs.Session]:
    fs = MemoryFilesystem(latency=LATENCY, bandwidth=bandwidth)
    async with (
        muxfs.open_session("", role="listen", storage=fs.storage("l", "d")) as listen,
        muxfs.open_session("", role="dial", storage=fs.storage("d", "l")) as dial,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(workload.serve, listen)
        await dial.wait_established()
        yield dial
        nursery.cancel_scope.cancel()


async def test_times(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as session:
        for work in (workload.echoes, workload.short_streams):
            times = await work(session, 3.0)
            assert times.count > 10
            # each way a write and a read; one of them may have begun before
            assert 2 * LATENCY <= times.p50 <= times.p99 <= times.most < 1
            assert times.operations >= 2
        await trio.sleep(1)  # until the last one is closed on both sides
        assert session.stats().streams == 0


async def test_at_least_one(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as session:
        assert (await workload.echoes(session, 0.0)).count == 1


@pytest.mark.parametrize("target", [workload.SINK, workload.SOURCE])
async def test_rate(target: str, autojump_clock: trio.testing.MockClock) -> None:
    async with served(BANDWIDTH) as session:
        rate = await workload.rate(session, target, 5.0)
        assert 0.5 * BANDWIDTH < rate < 1.1 * BANDWIDTH
        alone = await workload.echoes(session, 1.0)
        async with workload.bulk(session, target):
            beside = await workload.echoes(session, 5.0)
        assert beside.p50 > alone.p50


class Standing:
    """A session of 1 MB/s, but that nothing comes in a quarter of the first ten seconds."""

    async def open_stream(self, target: str) -> Standing:
        return self

    async def receive_some(self) -> None:
        await trio.sleep_forever()

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()

    def stats(self) -> SimpleNamespace:
        now = trio.current_time()
        return SimpleNamespace(bytes_read=1e6 * (min(now, 4.8) + max(0.0, now - 7.3)))


async def test_a_bad_moment_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    assert trio.current_time() == 0
    rate = await workload.rate(Standing(), workload.SOURCE, 10.0)
    assert rate == pytest.approx(1e6)
