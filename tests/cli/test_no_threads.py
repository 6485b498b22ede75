"""What an end does where a user may start no more threads, as on a full login node."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from muxfs import SessionConfig
from muxfs.cli import bench, consultation, measuring, readiness, telling
from muxfs.cli.child import NOT_EXECUTABLE, Child
from muxfs.cli.failures import Failure
from muxfs.cli.tunnel import Tunnel
from muxfs.doctor.pair import Plan
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


@pytest.mark.usefixtures("no_threads")
async def test_the_command_of_an_end_that_cannot_be_started() -> None:
    with pytest.raises(Failure, match="cannot run true: can't start new thread") as caught:
        await Child(["true"], (), 1024).start("job")
    assert caught.value.exit_code == NOT_EXECUTABLE


def measurement(directory: Path) -> measuring.Measurement:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    args = parser.parse_args([str(directory), "--time", "500ms", "--ring", "1M"])
    tunnel = Tunnel(str(directory), str(directory))
    return measuring.Measurement(args, tunnel, SessionConfig(capacity=1 << 20))


@pytest.mark.usefixtures("no_threads")
async def test_a_measurement_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot measure in .*: can't start new thread"):
        await measuring._run(measurement(tmp_path))


async def test_a_measurement_that_finds_no_thread_once_two_have_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_path: str) -> None:
        raise OSError(errno.EAGAIN, "can't start new thread")

    monkeypatch.setattr(measuring, "find_filesystem", none_left)
    with (
        trio.fail_after(PATIENCE),
        pytest.raises(Failure, match=r"cannot measure in .*: can't start new thread"),
    ):
        await measuring._run(measurement(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_threads")
async def test_a_doctor_that_cannot_begin(tmp_path: Path) -> None:
    tunnel = Tunnel(str(tmp_path), str(tmp_path))
    plan = Plan(seconds=1, ring=1 << 20)
    doctor = consultation.Consultation(tunnel, plan, peer=False, wait=1, insecure=False, json=False)
    with pytest.raises(Failure, match=f"cannot examine {tmp_path}: can't start new thread"):
        await consultation._run(doctor)
