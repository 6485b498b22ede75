"""`muxfs status` of tunnels that belong to jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import time

from tests.commands import PATIENCE, Runner

from . import fake
from .fake import Slurm

OWN = os.geteuid()


def wait_born(muxfs: Runner, name: str) -> None:
    """Wait until the dialling end has written who it is."""
    mailbox = muxfs.home / name / "sessions" / "0" / "dial.mbx"
    deadline = time.monotonic() + PATIENCE
    while not mailbox.exists() or not any(mailbox.read_bytes()[:4096]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_tunnels_of_a_user(slurm: Slurm, muxfs: Runner) -> None:
    """Job, state, node, ports of this host, and since when nothing was heard."""
    slurm.says("squeue", fake.job(7, uid=OWN))
    dial = muxfs.start("dial", SLURM_JOB_ID="7")
    listen = muxfs.start("listen", "slurm-7", "0:8888", "--json")
    port = listen.event("listening")["port"]
    listen.event("established")
    killed = muxfs.start("dial", SLURM_JOB_ID="3")
    wait_born(muxfs, "slurm-3")
    killed.process.kill()
    killed.wait()
    before = len(slurm.asked)

    _, three, seven = muxfs.run("status").lines["stdout"]
    assert re.fullmatch(r"slurm-3 +ended +.* ago +- +3 has left the queue", three)
    assert re.fullmatch(rf"slurm-7 +established +.* ago +{port} +7 RUNNING on c1", seven)
    asked = [line for line in slurm.asked[before:] if "-u" in line]
    assert len(asked) == 1  # for all tunnels together

    (first, second) = json.loads(muxfs.run("status", "--json").lines["stdout"][0])["tunnels"]
    assert (first["job"]["state"], first["job"]["ended"]) == ("GONE", True)
    assert first["sessions"][0]["dial"]["age"] >= 0
    assert (second["job"]["state"], second["job"]["node"]) == ("RUNNING", "c1")
    assert f"127.0.0.1:{port}" in second["ports"][0]

    words = "\n".join(muxfs.run("status", "slurm-7").lines["stdout"])
    assert "slurm-7: established" in words
    assert "job     RUNNING on c1" in words
    assert f"ports   127.0.0.1:{port} by -L 0:localhost:8888" in words

    live = muxfs.start("status", "--watch", "slurm-7")
    live.wait_for(lambda: "\n".join(live.lines["stdout"]).count("slurm-7: established") > 1)
    live.end(signal.SIGKILL)
    for command in (listen, dial):
        command.end()


def test_without_slurm(muxfs: Runner) -> None:
    dial = muxfs.start("dial", "slurm-7")
    wait_born(muxfs, "slurm-7")
    status = muxfs.run("status", PATH="/nowhere")
    assert re.fullmatch(r"slurm-7 +waiting +.* ago +- +-", status.lines["stdout"][1])
    assert len(status.lines["stdout"]) == 2
    dial.end()


def test_slurm_that_does_not_answer(slurm: Slurm, muxfs: Runner) -> None:
    dial = muxfs.start("dial", "slurm-7")
    wait_born(muxfs, "slurm-7")
    slurm.says("squeue", err=fake.UNREACHABLE, code=1)
    _, line, last = muxfs.run("status").lines["stdout"]
    assert line.startswith("slurm-7  waiting")
    assert last.startswith("Slurm does not answer, so that nothing is said of jobs: slurm_load")
    found = json.loads(muxfs.run("status", "--json").lines["stdout"][0])
    assert (found["tunnels"][0]["job"], found["slurm"]) == (None, fake.UNREACHABLE)
    dial.end()


def test_twenty_jobs_fit_a_terminal(slurm: Slurm, muxfs: Runner) -> None:
    """A line each, in the order of their numbers, no wider than 80 columns."""
    numbers = range(1234560 - 10, 1234560 + 10)
    names = {number: f"9999990_{number % 20}" for number in numbers}
    slurm.says("squeue", "".join(fake.job(n, uid=OWN, name=name) for n, name in names.items()))
    for number in (9, *numbers):
        (muxfs.home / f"slurm-{number}" / "sessions").mkdir(parents=True)
    _, first, *lines = muxfs.run("status").lines["stdout"]
    assert first.startswith("slurm-9 ")
    assert [int(line.split()[0].removeprefix("slurm-")) for line in lines] == list(numbers)
    assert all(
        line.endswith(f"{name} RUNNING on c1")
        for line, name in zip(lines, names.values(), strict=True)
    )
    assert max(map(len, lines)) <= 80
