"""Whose tunnels are removed: those of jobs that are over, and no others."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from muxfs.cli import jobs, removal, survey
from muxfs.cli.failures import Failure
from muxfs.cli.output import Output
from muxfs.slurm import sweeping
from muxfs.slurm.following import Following
from muxfs.slurm.jobs import JobId
from muxfs.slurm.queue import Job, NoAnswer

from . import fake
from .fake import Slurm

OWN = 1
NUMBERS = (OWN, 7, 8, 9)
NOW = 1_700_000_000.0


def make(home: Path, name: str, age: float = 0) -> Path:
    """Make a tunnel in which something was written `age` seconds ago."""
    tunnel = home / name
    session = tunnel / "sessions" / "0"
    session.mkdir(parents=True)
    mailbox = session / "dial.mbx"
    mailbox.write_bytes(b"")
    for path in (mailbox, session, session.parent, tunnel):
        os.utime(path, (NOW - age, NOW - age))
    return tunnel


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    make(home, f"slurm-{OWN}")
    return home


def sweep(home: Path) -> list[str]:
    for path in sweeping.ended(str(home), str(home / f"slurm-{OWN}")):
        removal.remove(path)
    return sorted(os.listdir(home))


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"])
def test_the_tunnel_of_an_ended_job_goes(home: Path, slurm: Slurm, state: str) -> None:
    make(home, "slurm-7")
    slurm.says("squeue", fake.job(OWN) + fake.job(7, state))

    assert sweep(home) == [f"slurm-{OWN}"]


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "COMPLETING", "REQUEUED", "NODE_FAIL"])
def test_the_tunnel_of_a_job_that_lives_or_may_come_back_stays(
    home: Path, slurm: Slurm, state: str
) -> None:
    make(home, "slurm-7", age=10 * sweeping.FORGOTTEN)
    slurm.says("squeue", fake.job(OWN) + fake.job(7, state))

    assert sweep(home) == [f"slurm-{OWN}", "slurm-7"]


async def test_what_is_called_ended_goes_when_it_was_silent(
    home: Path, slurm: Slurm, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another cluster that numbers alike may have a job of that number, alive."""
    for name in ("slurm-7", "slurm-8", "slurm-9"):
        make(home, name)
    (home / "slurm-9" / "sessions" / "0" / "listen.mbx").symlink_to(home)  # cannot be judged
    slurm.says(
        "squeue", "".join(fake.job(n, "COMPLETED" if n > OWN else "RUNNING") for n in NUMBERS)
    )
    monkeypatch.setattr(jobs, "tunnels_home", lambda: str(home))
    sleep = trio.sleep

    async def beat(seconds: float) -> None:
        assert seconds >= 60
        assert len(os.listdir(home)) == len(NUMBERS)
        (home / "slurm-8" / "sessions" / "0" / "dial.mbx").write_bytes(b"a later beat")
        await sleep(seconds)

    monkeypatch.setattr(trio, "sleep", beat)
    await jobs.Watch.of(JobId(OWN), Output()).sweep(str(home / f"slurm-{OWN}"))

    assert sorted(os.listdir(home)) == [f"slurm-{OWN}", "slurm-8", "slurm-9"]


async def ended_well(_: JobId) -> Job:
    return Job(7, "7", "COMPLETED")


@pytest.mark.usefixtures("no_threads")
async def test_without_a_thread_the_end_of_a_job_is_told_all_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(home, "slurm-7")
    monkeypatch.setattr(jobs, "tunnels_home", lambda: str(home))
    watch = jobs.Watch(Following(JobId(7), lambda _: None, ask=ended_well), Output())

    with pytest.raises(jobs.JobOver) as caught:
        await watch.until_running()
    assert caught.value.exit_code == 0
    await watch.sweep_own()
    await watch.sweep(str(home / f"slurm-{OWN}"))

    assert sorted(os.listdir(home)) == [f"slurm-{OWN}", "slurm-7"]  # another end's affair


@pytest.mark.usefixtures("no_threads")
async def test_without_a_thread_nothing_is_known_of_a_job(home: Path) -> None:
    assert await jobs.Watch.of_own(7, Output()) is None


@pytest.mark.parametrize("error", [None, errno.EAGAIN, errno.EIO])
async def test_a_tunnel_that_cannot_be_looked_at_is_not_called_unused(
    home: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    """Somebody of another cluster may dial there: that the own job is over proves nothing."""
    make(home, "slurm-7")
    slurm.says("squeue", fake.job(7, "COMPLETED", uid=os.geteuid()))
    monkeypatch.setattr(jobs, "tunnels_home", lambda: str(home))
    in_thread = jobs.in_thread

    async def no_thread_to_look(call: Any, *arguments: Any) -> Any:
        if error == errno.EAGAIN and call is survey.is_used:
            raise OSError(error, os.strerror(error))
        return await in_thread(call, *arguments)

    def no_answer(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(jobs, "in_thread", no_thread_to_look)
    if error == errno.EIO:
        monkeypatch.setattr(survey, "_examine", no_answer)

    if error is None:
        with pytest.raises(Failure, match="job 7"):
            await jobs.Watch.of_own(7, Output())
    else:
        assert await jobs.Watch.of_own(7, Output()) is None
    assert (home / "slurm-7").exists() == (error is not None)


def test_of_a_forgotten_job_only_an_old_tunnel_goes(home: Path, slurm: Slurm) -> None:
    make(home, "slurm-7", age=sweeping.FORGOTTEN - 60)
    make(home, "slurm-8", age=sweeping.FORGOTTEN + 60)
    slurm.says("squeue", fake.job(OWN))

    assert sweep(home) == [f"slurm-{OWN}", "slurm-7"]


def test_the_one_in_use_and_tunnels_that_users_have_named_stay(home: Path, slurm: Slurm) -> None:
    for name in ("job", "slurm-", "slurm-x", "my-slurm-7"):
        make(home, name, age=10 * sweeping.FORGOTTEN)
    before = sorted(os.listdir(home))
    slurm.says("squeue", fake.job(OWN, "COMPLETED"))

    assert sweep(home) == before
    assert not slurm.asked


def test_without_an_answer_all_stay(home: Path, slurm: Slurm) -> None:
    make(home, "slurm-7", age=10 * sweeping.FORGOTTEN)
    slurm.says("squeue", err=fake.UNREACHABLE + "\n", code=1)

    with pytest.raises(NoAnswer):
        sweep(home)

    assert sorted(os.listdir(home)) == [f"slurm-{OWN}", "slurm-7"]


def test_what_muxfs_did_not_make_stays(home: Path, slurm: Slurm) -> None:
    """And what has the name of a mailbox and is none."""
    tunnel = make(home, "slurm-7")
    (tunnel / "notes").write_text("mine")
    session = tunnel / "sessions" / "0"
    (session / "listen.mbx").symlink_to(tunnel / "notes")
    make(home, "slurm-8")
    slurm.says("squeue", fake.job(OWN) + fake.job(7, "COMPLETED") + fake.job(8, "FAILED"))

    assert sweep(home) == [f"slurm-{OWN}", "slurm-7"]

    assert (tunnel / "notes").read_text() == "mine"
    assert os.listdir(session) == ["listen.mbx"]


def test_what_a_link_points_to_stays(home: Path, slurm: Slurm, tmp_path: Path) -> None:
    elsewhere = make(tmp_path, "elsewhere")
    (home / "slurm-7").symlink_to(elsewhere)
    slurm.says("squeue", fake.job(OWN) + fake.job(7, "COMPLETED"))

    sweep(home)

    assert (elsewhere / "sessions" / "0" / "dial.mbx").exists()
