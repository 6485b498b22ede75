"""Which process wrote a mailbox, and whether it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from muxfs import process

NAME = "import muxfs.process as p, sys; print(p.identity(), flush=True); sys.stdin.read()"

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="no /proc here"
)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        yield child
        child.kill()


def name_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_this_process() -> None:
    name = process.identity()
    assert process.pid_of(name) == os.getpid()
    assert process.is_alive(name) is True
    assert process.identity() == name


def test_another_process_lives_until_it_ends(child: subprocess.Popen[str]) -> None:
    name = name_of(child)
    assert process.pid_of(name) == child.pid
    assert process.is_alive(name) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_alive(name) is False  # a zombie writes no more
    child.wait()
    assert process.is_alive(name) is False


def test_a_reused_pid_is_another_process() -> None:
    boot, space, pid, start = process.identity().split("/")
    assert process.is_alive(f"{boot}/{space}/{pid}/{int(start) + 1}") is False


def test_another_host_or_container_cannot_be_judged() -> None:
    boot, space, pid, start = process.identity().split("/")
    assert process.is_alive(f"another-boot/{space}/{pid}/{start}") is None
    assert process.is_alive(f"{boot}/pid:[1]/{pid}/{start}") is None


@pytest.mark.parametrize("name", ["", "x", "a/b/c/d", "///", "a/b/-1/d", "a/b/1/2/3", "a/b/²/c"])
def test_malformed_names(name: str) -> None:
    assert process.pid_of(name) is None
    assert process.is_alive(name) is None


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    name = process.identity()

    def no_proc(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(process, "_read", no_proc)
    assert process.identity() == ""
    assert process.is_alive(name) is None
