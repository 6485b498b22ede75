"""`muxfs listen --job` and `muxfs dial` in a job, as processes, with a Slurm that is played."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.commands import PATIENCE, Command, Runner

from . import fake
from .fake import Slurm

OWN = os.geteuid()


def says(slurm: Slurm, state: str, **facts: object) -> None:
    slurm.says("squeue", fake.job(7, state, uid=OWN, **facts))  # type: ignore[arg-type]


def test_from_waiting_to_the_end(slurm: Slurm, muxfs: Runner) -> None:
    says(slurm, "PENDING", nodes="", reason="Priority")
    listen = muxfs.start("listen", "--job", "7", "0:8888")
    listen.says("job 7: PENDING (Priority)")
    assert "port" not in listen.stderr
    says(slurm, "RUNNING")
    listen.says("job 7: RUNNING on c1")
    listen.says("and open there:                    http://localhost:")
    dial = muxfs.start("dial", "-q", SLURM_JOB_ID="7")
    listen.says("connected to")
    assert "job 7" in listen.stderr.rpartition("connected to")[2]
    dial.process.kill()  # as Slurm does
    dial.wait()
    says(slurm, "TIMEOUT")
    assert listen.wait() == 1
    assert "job 7 reached its time limit" in listen.stderr
    assert not (muxfs.home / "slurm-7").exists()


def test_a_job_that_comes_to_a_good_end(slurm: Slurm, muxfs: Runner) -> None:
    says(slurm, "RUNNING")
    listen = muxfs.start("listen", "--json", "--job", "7")
    assert listen.event("listening")["target"] == "target:1"
    says(slurm, "COMPLETED")
    assert listen.wait() == 0
    closed = listen.event("closed")
    assert (closed["reason"], closed["exit"]) == ("job 7 has completed", 0)
    states = [event["state"] for event in listen.events if event["event"] == "job"]
    assert states == ["RUNNING", "COMPLETED"]


def test_a_port_that_is_taken(slurm: Slurm, muxfs: Runner) -> None:
    says(slurm, "RUNNING")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = muxfs.start("listen", "--job", "7", f"{port}:8888")
        listen.says(f"muxfs: port {port} of {socket.gethostname()} is in use: port ")
        listen.says("and open there:                    http://localhost:")
        assert f"http://localhost:{port}\n" not in listen.stderr + "\n"
        assert listen.end() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("job", "line", "code", "words"),
    [
        ("9", "", 66, "there is no job 9 that Slurm knows of"),
        ("x", "", 2, "--job: 'x' is not a job id such as 123, 123_4 or 123+1"),
        ("7", fake.job(7, uid=OWN + 1), 77, f"job 7 belongs to another user (uid {OWN + 1})"),
        ("7", fake.job(7, "CANCELLED", uid=OWN), 1, "job 7 was cancelled"),
    ],
)
def test_jobs_that_there_is_nothing_to_wait_for(
    slurm: Slurm, muxfs: Runner, job: str, line: str, code: int, words: str
) -> None:
    if OWN == 0 and code == 77:
        pytest.skip("root may listen for anybody")
    slurm.says("squeue", line)
    listen = muxfs.run("listen", "--job", job, "0:8888")
    assert listen.wait() == code
    assert words in listen.stderr


def test_a_host_without_slurm(muxfs: Runner) -> None:
    listen = muxfs.run("listen", "--job", "7", "0:8888", PATH="/nowhere")
    assert listen.wait() == 69
    assert "this host has no squeue: Slurm's commands are missing" in listen.stderr


def test_what_ended_jobs_left_is_looked_for(slurm: Slurm, muxfs: Runner) -> None:
    """And what is found is removed two minutes later: tests/jobs/test_sweeping.py."""
    slurm.says("squeue", fake.job(7, uid=OWN))
    killed = muxfs.start("dial", SLURM_JOB_ID="3")
    killed.says("waiting for the other side")
    killed.process.kill()
    killed.wait()
    slurm.says("squeue", fake.job(7, uid=OWN, name="7+0") + fake.job(3, "TIMEOUT", uid=OWN))
    listen = muxfs.start("listen", "--job", "7+0", "0:8888")
    deadline = time.monotonic() + PATIENCE
    while not any("-u" in words for words in slurm.asked):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert listen.end() == 128 + signal.SIGTERM
    assert (muxfs.home / "slurm-3").exists()
    assert (muxfs.home / "slurm-7").exists()


def dial_in(muxfs: Runner, restarts: int, *words: str) -> Command:
    return muxfs.start("dial", *words, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))


def test_a_later_instance_of_a_job_replaces_an_earlier_one(slurm: Slurm, muxfs: Runner) -> None:
    """A node that Slurm has lost may go on running a job that was started again elsewhere."""
    says(slurm, "RUNNING")
    first = dial_in(muxfs, 0)
    first.says("waiting for the other side")
    twin = dial_in(muxfs, 0)
    assert twin.wait() == 75
    second = dial_in(muxfs, 1)
    second.says("replacing an earlier instance of this job")
    second.says("waiting for the other side")
    assert first.wait() == 75
    late = dial_in(muxfs, 0)
    assert late.wait() == 75
    assert second.process.poll() is None


STEP = """\
#!{python}
import os, signal, subprocess, sys
# as a script's last words: what it leaves behind has its output, but not its life
child = subprocess.Popen([sys.executable, "-m", "muxfs", *sys.argv[1:]], start_new_session=True)
signal.pause()
"""


@pytest.mark.parametrize(
    "command", [[], ["--", "sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]]
)
def test_what_outlives_its_step_ends_by_itself(
    slurm: Slurm, muxfs: Runner, tmp_path: Path, command: list[str]
) -> None:
    """Sites without cgroups leave it alive when the job has ended."""
    says(slurm, "RUNNING")
    supervisor = tmp_path / "slurmstepd"
    supervisor.write_text(STEP.format(python=sys.executable))
    supervisor.chmod(0o755)
    # the kernel names a process after the script, unless the interpreter is started with it
    launcher = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    step = muxfs.start(
        "dial", "8888", *command, program=("-c", launcher, str(supervisor)), SLURM_JOB_ID="7"
    )
    step.says("waiting for the other side")
    step.process.kill()
    step.says("the step of job 7 is over")
    step.says("ended")
    step.wait()  # its output is closed: by the process that it left behind
    assert slurm.asked == []
