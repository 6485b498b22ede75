"""`muxfs demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from muxfs.cli import demonstration
from tests.commands import Runner


def test_demo(muxfs: Runner, tmp_path: Path) -> None:
    demo = muxfs.run("demo", "--size", "20M", "--dir", str(tmp_path))
    said = "\n".join(demo.lines["stdout"])
    assert demo.wait() == 0, demo.lines
    assert demo.stderr == ""
    assert f"directory    {tmp_path}/muxfs-demo-" in said
    assert "muxfs listen " in said
    assert "-> 200 OK, 68 bytes" in said
    assert "20.0 MiB " in said
    assert "/s; both sides' xxh3 is " in said
    assert "round trip " in said
    assert "tunnel/sessions/0/dial.mbx, tunnel/sessions/0/listen.mbx" in said
    assert "Every byte was right." in said
    assert list(tmp_path.iterdir()) == []


def test_demo_with_a_key(muxfs: Runner, tmp_path: Path) -> None:
    demo = muxfs.run("demo", "--size", "5M", "--dir", str(tmp_path), "--key")
    said = "\n".join(demo.lines["stdout"])
    assert demo.wait() == 0, demo.lines
    assert said.count(" --key-file ") == 2
    assert "Every byte was right." in said
    assert list(tmp_path.iterdir()) == []


def test_demo_on_a_directory_that_is_not_there(muxfs: Runner, tmp_path: Path) -> None:
    demo = muxfs.run("demo", "--dir", f"{tmp_path}/none")
    assert demo.wait() == 66
    assert demo.stderr.startswith(f"muxfs: cannot make a directory in {tmp_path}/none: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_demo_that_is_ended(muxfs: Runner, tmp_path: Path, number: int, code: int) -> None:
    demo = muxfs.start("demo", "--size", "100G", "--dir", str(tmp_path))
    demo.wait_for(lambda: any("web page" in line for line in demo.lines["stdout"]))
    assert demo.end(number) == code
    assert "Traceback" not in demo.stderr
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 60
    while _processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _processes_of(tmp_path) == []


def _processes_of(path: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        if name.isdecimal() and int(name) != os.getpid() and os.fsencode(path) in command:
            found.append(name)
    return found


def test_a_wrong_byte_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real = demonstration._send_data
    monkeypatch.setattr(
        demonstration, "_send_data", lambda write, length: "0" * len(real(write, length))
    )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert demonstration.run(1 << 20, str(tmp_path)) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "The demo FAILED: xxh3 of what was sent is 000" in capsys.readouterr().out
