"""The Slurm cluster for tests: those that MUXFS_SLURM asks for, else they skip.

MUXFS_SLURM=cgroup pytest tests/slurm            as most sites track the processes of jobs
MUXFS_SLURM=cgroup,linuxproc pytest tests/slurm  also without cgroups

What a test gets:

* `cluster`: hosts (`cluster.login1`, `login2`, `c1`, `c2`, `controller`, and `license`, a machine
  that only the login hosts reach), whose `host.run(*argv, user=...)` runs a command to its end;
  `power_cut(host)` and `start(host)`, `partition(host)` and `heal(host)`, `restart_controller()`,
  `plugins(text)` for plugstack.conf (its directory is `cluster.etc`, /etc/slurm on each host).
  `await cluster.no_leftovers()` fails if a process, port, cgroup or mailbox is left on
  any host. After the test all hosts are up again and empty.
* `commands`: `await commands.muxfs(host, "listen", ...)` gives a `tests.e2e.process.Side`.
* `jobs.submit(cluster, script, *options)`: a `Job`, with `runs()`, `until(...)` and `cancel()`.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from tests.limits import bound

from .cluster import TRACKING, Cluster
from .commands import Commands, open_commands

VARIABLE = "MUXFS_SLURM"
NOT_ASKED = f"a Slurm cluster needs root and some packages: {VARIABLE}=cgroup (docs/lab.md)"
LIMIT = 300.0
"""Seconds that one test may take."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the limit around each asynchronous test of this directory."""
    bound(item, Path(__file__).parent, LIMIT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each kind of cluster that is asked for."""
    if "slurm" in metafunc.fixturenames:
        asked = [word for word in os.environ.get(VARIABLE, "").split(",") if word]
        if unknown := set(asked) - set(TRACKING):
            raise pytest.UsageError(f"{VARIABLE}: {unknown}: give {' or '.join(TRACKING)}")
        skipped = pytest.param("", marks=pytest.mark.skip(reason=NOT_ASKED), id="cluster")
        metafunc.parametrize("slurm", asked or [skipped], indirect=True, scope="session")


@pytest.fixture(scope="session")
def slurm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Bring a cluster up, which all tests share."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cell", request.param)
    trio.run(cluster.up)
    yield cluster
    trio.run(cluster.down)


@pytest.fixture
async def cluster(slurm: Cluster) -> AsyncIterator[Cluster]:
    """Give the cluster, with all hosts up and nothing of users on them."""
    yield slurm
    with trio.CancelScope(shield=True):
        await slurm.tidy()


@pytest.fixture
async def commands(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Commands]:
    """Give the means to start muxfs on hosts."""
    async with open_commands(tmp_path) as commands:
        yield commands


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    # The last resort, for a test that is stuck where trio cannot cancel it.
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
