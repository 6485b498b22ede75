"""`muxfs stdio` into a job: the end that it leaves in the background follows that job."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
import trio

from tests.cli.conftest import Runner
from tests.e2e.background import end_all, pids, wait_gone

from . import fake
from .fake import Slurm

OWN = os.geteuid()


@pytest.fixture
def muxfs(muxfs: Runner) -> Iterator[Runner]:
    """Give the runner; what is left in the background is ended."""
    yield muxfs
    trio.run(end_all, muxfs.home / "slurm-7")


@pytest.fixture
def service() -> Iterator[int]:
    """Give the port of a service that says a word to each client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"word\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_it_ends_with_the_job_and_leaves_nothing(slurm: Slurm, muxfs: Runner, service: int) -> None:
    slurm.says("squeue", fake.job(7, uid=OWN))
    dial = muxfs.start("dial", str(service), SLURM_JOB_ID="7")
    dial.says("waiting for the other side")
    stdio = muxfs.run("stdio", "slurm-7", "target:1")
    assert stdio.lines["stdout"] == ["word"], stdio.stderr
    (background,) = pids(muxfs.home / "slurm-7")
    slurm.says("squeue", fake.job(7, "COMPLETED", uid=OWN))
    dial.end()
    trio.run(wait_gone, background)
    assert not (muxfs.home / "slurm-7").exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("PENDING", "job 7 does not run: PENDING (Priority)"),
        ("NODE_FAIL", "job 7 lost its node"),
        ("CANCELLED", "job 7 was cancelled"),
    ],
)
def test_a_job_that_does_not_run(slurm: Slurm, muxfs: Runner, state: str, words: str) -> None:
    """It is said at once; of one that is over, the tunnel goes."""
    killed = muxfs.start("dial", SLURM_JOB_ID="7")
    killed.says("waiting for the other side")
    killed.process.kill()
    killed.wait()
    slurm.says("squeue", fake.job(7, state, uid=OWN, reason="Priority"))
    stdio = muxfs.run("stdio", "slurm-7", "8888")
    assert stdio.wait() == 69
    assert stdio.stderr == f"muxfs: muxfs listen in the background: {words}"
    assert (muxfs.home / "slurm-7").exists() == (state != "CANCELLED")


def test_a_job_that_there_is_not(slurm: Slurm, muxfs: Runner) -> None:
    stdio = muxfs.run("stdio", "slurm-9", "8888")
    assert stdio.wait() == 66
    assert stdio.stderr.endswith(": there is no job 9 that Slurm knows of")
    assert not (muxfs.home / "slurm-9").exists()


@pytest.mark.parametrize("answer", ["nobody's", "ended", "no answer", "another user's"])
def test_a_job_that_slurm_does_not_know_as_the_users_own(
    slurm: Slurm, muxfs: Runner, service: int, answer: str
) -> None:
    """Such as one of another cluster with the same home: whoever dials there is served."""
    match answer:
        case "ended":
            slurm.says("squeue", fake.job(7, "COMPLETED", uid=OWN))
        case "no answer":
            slurm.says("squeue", err=fake.UNREACHABLE, code=1)
        case "another user's":
            slurm.says("squeue", fake.job(7, "COMPLETED", uid=OWN + 1))
    dial = muxfs.start("dial", "slurm-7", str(service))
    dial.says("waiting for the other side")
    assert muxfs.run("stdio", "slurm-7", "target:1").lines["stdout"] == ["word"]
    if answer == "ended":
        listen = muxfs.run("listen", "--job", "7")
        assert "job 7 has completed" in listen.stderr
        assert muxfs.run("stdio", "slurm-7", "target:1").lines["stdout"] == ["word"]
    dial.end()
