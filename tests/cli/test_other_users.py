"""What another user of the same host can do: nothing. Needs root, to become one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Runner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

OTHER = 65534
CLIENT = "exec 3<>/dev/tcp/{host}/{port} && echo connected && cat <&3"


def as_other_user(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        user=OTHER,
        group=OTHER,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_on_the_loopback(muxfs: Runner, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(60)
        target = service.getsockname()[1]
        listen = muxfs.start("listen", "job", f"0:{target}", "--json")
        muxfs.start("dial", "job", "--json").event("established")
        port = listen.event("listening")["port"]
        result = as_other_user(CLIENT.format(host=host, port=port))
        assert result.stdout == "connected\n"
        assert "reset by peer" in result.stderr
        refused = listen.event("refused")
        assert refused["code"] == "PROHIBITED"
        assert "(uid 65534) of this host is not its user; --any-user" in refused["reason"]
        # nothing of it reached the service: the first to come there is the own user
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"own")
            served, _ = service.accept()
            with served:
                assert served.recv(3) == b"own"


def test_a_port_that_was_opened_for_all(muxfs: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(60)
        target = service.getsockname()[1]
        listen = muxfs.start("listen", "job", f"0:{target}", "--any-user", "--json")
        muxfs.start("dial", "job", "--json").event("established")
        port = listen.event("listening")["port"]
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo hello >&3 && read -u 3 -r x"
        client = subprocess.Popen(["bash", "-c", script], user=OTHER, group=OTHER, cwd="/")
        served, _ = service.accept()
        with served:
            assert served.recv(6) == b"hello\n"
        client.wait(60)


@pytest.fixture
def crossing() -> Iterator[Path]:
    """A directory that everybody may enter and read: what keeps others out below is ours."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_the_directory_and_the_mailboxes(muxfs: Runner, crossing: Path) -> None:
    directory = crossing / "job"
    muxfs.start("listen", str(directory), "0:1", "--json").event("waiting")
    mailbox = directory / "sessions/0/listen.mbx"
    assert as_other_user(f"ls {crossing}").stdout == "job\n"
    scripts = (f"ls {directory}", f"cat {mailbox}", f"echo x >{mailbox}", f"touch {directory}/x")
    for script in scripts:
        result = as_other_user(script)
        assert result.returncode
        assert "Permission denied" in result.stderr
    # nor if the directory were open: the mailbox is not
    for path in (directory, directory / "sessions", mailbox.parent):
        path.chmod(0o755)
    assert as_other_user(f"ls {mailbox.parent}").stdout == "listen.mbx\n"
    for script in scripts[1:]:
        assert "Permission denied" in as_other_user(script).stderr


def test_a_mailbox_of_another_user(muxfs: Runner) -> None:
    """Somebody who could once write to the directory has put a file there."""
    muxfs.start("dial", "job", "--json").event("waiting")
    planted = muxfs.home / "job/sessions/0/listen.mbx"
    planted.write_bytes(bytes(1 << 20))
    os.chown(planted, OTHER, OTHER)
    listen = muxfs.start("listen", "job", "0:1")
    assert listen.wait() == 77
    assert f"{planted}" in listen.stderr
    assert "65534" in listen.stderr


def test_datagrams(muxfs: Runner) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        service.settimeout(60)
        target = service.getsockname()[1]
        listen = muxfs.start("listen", "job", "-U", f"0:{target}", "--json")
        muxfs.start("dial", "job", "--json").event("established")
        listen.event("established")  # datagrams do not wait for a session
        port = listen.event("listening")["port"]
        script = f"exec 3<>/dev/udp/127.0.0.1/{port} && echo evil >&3 && sleep 30"
        stranger = subprocess.Popen(["bash", "-c", script], user=OTHER, group=OTHER, cwd="/")
        try:
            refused = listen.event("refused")
            assert refused["code"] == "PROHIBITED"
            assert "(uid 65534) of this host is not its user; --any-user" in refused["reason"]
        finally:
            stranger.kill()
            stranger.wait()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"own", ("127.0.0.1", port))
            assert service.recv(10) == b"own"


@pytest.mark.skipif(shutil.which("nc") is None, reason="needs nc")
def test_a_unix_socket(muxfs: Runner, crossing: Path) -> None:
    path = crossing / "s"
    listen = muxfs.start("listen", "job", f"{path}:1", "--json")
    listen.event("listening")
    connect = f"nc -v -N -U {path} </dev/null"
    assert "Permission denied" in as_other_user(connect).stderr
    # nor if the file were open to all
    path.chmod(0o666)
    assert "Permission denied" not in as_other_user(connect).stderr
    assert "(uid 65534) of this host is not its user" in listen.event("refused")["reason"]


def test_a_port_that_was_opened_for_the_other_side(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "--allow-listen", "1024-65535", "--json")
    dial = muxfs.start("dial", "job", "-R", "0:1", "--json")
    port = dial.event("remote-listening")["bound"].rpartition(":")[2]
    assert "reset by peer" in as_other_user(CLIENT.format(host="127.0.0.1", port=port)).stderr
    assert "(uid 65534) of this host is not its user" in listen.event("refused")["reason"]
