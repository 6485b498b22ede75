"""`muxfs status` of tunnels that belong to jobs."""

from __future__ import annotations

import json
import os
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

    status = muxfs.run("status")
    words = "\n".join(status.lines["stdout"])
    assert "slurm-7: established" in words
    assert "job     RUNNING on c1" in words
    assert f"ports   127.0.0.1:{port} by -L {port}:localhost:8888" in words.replace(
        "-L 0:", f"-L {port}:"
    )
    assert "job     job 3 has left the queue" in words
    assert "last sign of life" in words.partition("slurm-3")[2].partition("slurm-7")[0]
    asked = [line for line in slurm.asked[before:] if "-u" in line]
    assert len(asked) == 1  # for all tunnels together

    (first, second) = json.loads(muxfs.run("status", "--json").lines["stdout"][0])["tunnels"]
    assert (first["job"]["state"], first["job"]["ended"]) == ("GONE", True)
    assert first["sessions"][0]["dial"]["age"] >= 0
    assert (second["job"]["state"], second["job"]["node"]) == ("RUNNING", "c1")
    assert f"127.0.0.1:{port}" in second["ports"][0]

    live = muxfs.start("status", "--watch", "slurm-7")
    live.wait_for(lambda: "\n".join(live.lines["stdout"]).count("slurm-7: established") > 1)
    live.end(signal.SIGKILL)
    for command in (listen, dial):
        command.end()


def test_without_slurm(muxfs: Runner) -> None:
    dial = muxfs.start("dial", "slurm-7")
    wait_born(muxfs, "slurm-7")
    status = muxfs.run("status", PATH="/nowhere")
    assert any("slurm-7: waiting" in line for line in status.lines["stdout"])
    assert not any("job  " in line for line in status.lines["stdout"])
    dial.end()
