"""What Slurm's commands say, and what is made of it."""

from __future__ import annotations

import pytest

from muxfs.slurm import queue
from muxfs.slurm.jobs import JobId
from muxfs.slurm.queue import NoAnswer, NoSlurm, SeveralTasks

from . import fake
from .fake import Slurm


def look(text: str) -> queue.Job | None:
    return queue.look(JobId.parse(text))


def test_a_running_job(slurm: Slurm) -> None:
    slurm.says("squeue", fake.job(7, restarts=1, nodes="c[1-2]"))
    job = look("7")
    assert job == queue.Job(7, "7", "RUNNING", 2001, restarts=1, node="c[1-2]")
    assert job is not None
    assert job.running
    assert not job.ended
    assert job.words == "RUNNING on c[1-2] (restarted)"
    (asked,) = slurm.asked
    assert asked[0] == "squeue"
    assert asked[-2:] == ["-j", "7"]


def test_a_waiting_job(slurm: Slurm) -> None:
    slurm.says("squeue", fake.job(6, "PENDING", nodes="", reason="JobHeldUser"))
    job = look("6")
    assert job is not None
    assert not job.running
    assert not job.ended
    assert job.words == "PENDING (JobHeldUser)"


@pytest.mark.parametrize(
    ("line", "words", "succeeded"),
    [
        (fake.job(8, "COMPLETED"), "job 8 has completed", True),
        (
            fake.job(7, "FAILED", status=768, reason="NonZeroExitCode"),
            "job 7 failed (exit code 3)",
            False,
        ),
        (fake.job(2, "CANCELLED", status=15), "job 2 was cancelled", False),
        (fake.job(2, "TIMEOUT", status=15), "job 2 reached its time limit", False),
        (fake.job(2, "NODE_FAIL"), "job 2 lost its node", False),
        (fake.job(2, "FAILED", status=9), "job 2 failed (signal 9)", False),
    ],
)
def test_ended_jobs(slurm: Slurm, line: str, words: str, succeeded: bool) -> None:
    slurm.says("squeue", line)
    job = look(line.split(maxsplit=1)[0])
    assert job is not None
    assert job.ended
    assert job.ending == words
    assert job.succeeded is succeeded


@pytest.mark.parametrize("state", ["COMPLETING", "REQUEUE_HOLD", "CONFIGURING", "SOMETHING_NEW"])
def test_other_states_are_no_end(slurm: Slurm, state: str) -> None:
    slurm.says("squeue", fake.job(2, state))
    job = look("2")
    assert job is not None
    assert not job.ended


TASKS = (
    fake.job(3, "PENDING", name="3_[2-3%2]", nodes="n/a", reason="JobArrayTaskLimit"),
    fake.job(10, name="3_1"),
    fake.job(9, name="3_0"),
)


def test_tasks_of_arrays(slurm: Slurm) -> None:
    slurm.says("squeue", TASKS[2])
    job = look("3_0")
    assert job is not None
    assert (job.number, job.name) == (9, "3_0")
    assert slurm.asked[-1][-1] == "3_0"
    slurm.says("squeue", "".join(TASKS))
    with pytest.raises(SeveralTasks, match="job 3 is an array: name one of its tasks, such as 3_0"):
        look("3")


def test_components_of_heterogeneous_jobs(slurm: Slurm) -> None:
    """squeue shows all of them, whichever is asked for."""
    slurm.says("squeue", fake.job(4, name="4+0") + fake.job(5, name="4+1", nodes="c2"))
    for text, number in (("4", 4), ("4+0", 4), ("4+1", 5), ("5", 5)):
        job = look(text)
        assert job is not None
        assert job.number == number
    assert look("4+7") is None


def test_a_job_that_has_left_the_queue(slurm: Slurm) -> None:
    assert look("99") is None
    slurm.says("sacct", "99|CANCELLED by 2001|0:15|c1\n")
    job = look("99")
    assert job is not None
    assert job.ending == "job 99 was cancelled"
    slurm.says("squeue", "")  # so of a task that there is not, or not any more
    assert look("99") == job


def test_no_answer_says_nothing_of_the_job(slurm: Slurm) -> None:
    slurm.says("squeue", err=fake.UNREACHABLE + "\n", code=1)
    with pytest.raises(NoAnswer, match="Unable to contact slurm controller"):
        look("7")


def test_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoSlurm, match="this host has no squeue"):
        look("7")


def test_a_command_that_hangs(slurm: Slurm) -> None:
    (slurm.place / "squeue").write_text("#!/bin/sh\nexec sleep 1000\n")
    with pytest.raises(NoAnswer, match=r"squeue gave no answer in 0\.1 s"):
        queue.jobs_of(2001, 0.1)


def test_the_users_own_settings_change_nothing(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    (slurm.place / "squeue").write_text(
        f'#!/bin/sh\ntest -z "$SQUEUE_FORMAT" && echo "{fake.job().rstrip()}"\n'
    )
    job = look("7")
    assert job is not None
    assert job.state == "RUNNING"


def test_all_jobs_of_a_user(slurm: Slurm) -> None:
    slurm.says("squeue", "".join(TASKS))
    assert [job.number for job in queue.jobs_of(2001)] == [3, 10, 9]
    assert slurm.asked[-1][-2:] == ["-u", "2001"]


def test_hostile_text_is_harmless(slurm: Slurm) -> None:
    slurm.says("squeue", fake.job(7, reason="\x1b[31mred"))
    job = look("7")
    assert job is not None
    assert job.words == r"RUNNING on c1"
    assert job.reason == r"\x1b[31mred"


@pytest.mark.parametrize("host", ["login1", "login1.cluster.example"])
def test_a_host_is_noted_without_its_domain(slurm: Slurm, host: str) -> None:
    slurm.says("squeue", f"{'login1':<256}{812:<16}\n{'login2':<256}{813:<16}\n")
    assert queue.has_jobs(host, 812)
    assert not queue.has_jobs(host, 813)


def test_the_heading_of_a_cluster(slurm: Slurm) -> None:
    slurm.says("squeue", "CLUSTER: east\n" + fake.job(7))
    job = look("7")
    assert job is not None
    assert job.running
