"""`muxfs listen` and `muxfs dial` as processes: what they say, and how they end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import xxhash

from muxfs.cli import ends
from muxfs.cli.failures import Failure
from muxfs.core import wire
from muxfs.forwards.spec import Forward, Port, Target
from tests.commands import Command, Runner
from tests.ports import unused_port


def assert_reset(listen: Command) -> str:
    """Connect, and be reset; returns the client's address."""
    address = "127.0.0.1", listen.event("listening")["port"]
    with socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        client_name = "{}:{}".format(*client.getsockname())
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            client.connect(address)  # the reset may be here before this has returned
            client.recv(1)
    return client_name


@pytest.mark.parametrize("order", [("listen", "dial"), ("dial", "listen")])
def test_both_orders_of_start(muxfs: Runner, order: tuple[str, str]) -> None:
    arguments = {"listen": ["0:8888"], "dial": []}
    started = []
    for role in order:
        end = muxfs.start(role, "job", *arguments[role], "--json")
        assert end.event("waiting")["role"] == role
        started.append(end)
    for end, other in (started, started[::-1]):
        peer = end.event("established")
        assert peer["pid"] == other.process.pid
        assert peer["host"] == socket.gethostname()
        assert peer["software"].startswith("muxfs ")
    names = [event["event"] for event in started[0].events]
    assert names == sorted(names, key=["listening", "waiting", "established"].index)


def test_what_listen_says(muxfs: Runner) -> None:
    port = unused_port()
    listen = muxfs.start("listen", "job", f"{port}:8888", "0:[::1]:80,0:lic:19")
    listen.says("waiting for the other side")
    directory = muxfs.home / "job"
    said = listen.stderr
    assert f"muxfs listen: {directory} on " in said
    assert f"  127.0.0.1, ::1 port {port} -> localhost:8888 of the other side" in said
    assert f"muxfs dial {directory} 8888 '[::1]:80' lic:19\n" in said
    assert f"ssh -N -L {port}:127.0.0.1:{port} -L " in said
    dial = muxfs.start("dial", "job", "8888")
    listen.says(f"connected to {socket.gethostname()}, pid {dial.process.pid}")
    dial.says("connects to localhost:8888")
    dial.says(f"muxfs listen {directory} 8888\n")
    assert dial.end() == 143
    listen.says("lost the other side: the other side ended")
    assert listen.end() == 143
    assert listen.lines["stdout"] == []
    assert listen.stderr.endswith("\n  waiting for the other side\n  ended")


def test_the_line_for_the_other_side_names_the_tunnel(muxfs: Runner, tmp_path: Path) -> None:
    """The very words work on the other host: a path is absolute, and a name a name."""
    listen = muxfs.start("listen", "job", "0:1", MUXFS_HOME="", HOME=str(tmp_path))
    listen.says("muxfs dial job 1\n")
    path = os.path.relpath(tmp_path / "a b")
    listen = muxfs.start("listen", path, "0:1")
    listen.says(f"muxfs dial '{tmp_path}/a b' 1\n")


def test_quiet(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "0:1", "-q")
    dial = muxfs.start("dial", "job", "--json")
    dial.event("established")
    assert listen.end() == 143
    assert listen.lines == {"stdout": [], "stderr": []}


def test_refused_dial_is_told_on_both_sides(muxfs: Runner) -> None:
    target = unused_port()
    listen = muxfs.start("listen", "job", f"0:{target}", "--json")
    dial = muxfs.start("dial", "job")
    listen.event("established")
    client_name = assert_reset(listen)
    reason = f"ECONNREFUSED localhost:{target}: nothing is listening there"
    assert listen.event("refused") == {
        "event": "refused",
        "originator": client_name,
        "target": f"localhost:{target}",
        "code": "REFUSED",
        "reason": reason,
    }
    dial.says(f"refused {client_name} -> localhost:{target}: {reason}")


def test_target_that_is_not_allowed(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "0:db:5432", "--json")
    muxfs.start("dial", "job", "8888")
    listen.event("established")
    assert_reset(listen)
    refused = listen.event("refused")
    assert refused["code"] == "PROHIBITED"
    assert "muxfs dial --allow db:5432 would allow it" in refused["reason"]


def test_client_without_a_session(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "0:1", "--connect-timeout", "200ms", "--json")
    assert_reset(listen)
    assert listen.event("refused")["reason"] == "no session with the other side within 0.2 s"


def test_a_port_that_leads_to_itself(muxfs: Runner) -> None:
    """A connection would go round until all descriptors are used up."""
    port = unused_port()
    listen = muxfs.start("listen", "job", str(port), "0:1")
    muxfs.start("dial", "job")
    listen.says(f"both ends run on this host, so that port {port} leads to itself: start one of")
    assert listen.stderr.count("leads to itself") == 1


def test_verbose_tells_connections(muxfs: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = server.getsockname()[1]
        listen = muxfs.start("listen", "job", f"0:{target}", "--json", "-v")
        muxfs.start("dial", "job")
        port = listen.event("listening")["port"]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"12345")
            client.shutdown(socket.SHUT_WR)
            served, _ = server.accept()
            with served:
                assert served.recv(10) == b"12345"
                served.sendall(b"123")
            assert client.recv(10) == b"123"
    ended = listen.event("ended")
    assert (ended["sent"], ended["received"], ended["clean"]) == (5, 3, True)


# Ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("role", ["listen", "dial"])
def test_signals_end_cleanly_and_the_other_side_is_told(
    muxfs: Runner, role: str, number: int, code: int
) -> None:
    both = {
        "listen": muxfs.start("listen", "job", "0:1", "--json"),
        "dial": muxfs.start("dial", "job", "--json"),
    }
    for end in both.values():
        end.event("established")
    leaver = both.pop(role)
    (other,) = both.values()
    assert leaver.end(number) == code
    name = signal.Signals(number).name
    assert leaver.event("closed") == {
        "event": "closed",
        "code": "SHUTDOWN",
        "reason": name,
        "exit": code,
    }
    assert leaver.stderr == ""
    assert other.event("lost")["code"] == "SHUTDOWN"
    assert other.events[-1]["event"] in {"lost", "waiting"}


def test_a_signal_before_anything_stands(muxfs: Runner) -> None:
    for _ in range(3):
        listen = muxfs.start("listen", "job", "0:1")
        listen.says("muxfs listen: ")
        assert listen.end(signal.SIGINT) == 130
        assert "Traceback" not in listen.stderr


STUCK = """
import sys, trio
import muxfs.cli.signals, muxfs.session
async def never(self, *_, **__):
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(__import__("time").sleep, 1000)
muxfs.session.Session.shut_down = never
muxfs.cli.signals.GRACE = float(sys.argv.pop(1))
muxfs.cli.main()
"""


@pytest.mark.parametrize(("grace", "signals"), [("0.2", 1), ("1000", 2)])
def test_an_end_that_is_stuck_in_a_dead_mount(muxfs: Runner, grace: str, signals: int) -> None:
    """Its threads cannot be killed, but the process ends: after a while, or at Ctrl-C again."""
    end = muxfs.start("dial", "job", "--json", program=("-c", STUCK, grace))
    end.event("waiting")
    for _ in range(signals):
        assert end.process.poll() is None
        end.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert end.wait() == 130


def test_hangup(muxfs: Runner) -> None:
    """A closed terminal ends it, unless nohup was asked for."""
    end = muxfs.start("dial", "job", "--json")
    end.event("waiting")
    assert end.end(signal.SIGHUP) == 129
    ignoring = "import signal; signal.signal(1, signal.SIG_IGN); import muxfs.cli as c; c.main()"
    end = muxfs.start("dial", "job", "--json", program=("-c", ignoring))
    end.event("waiting")
    end.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert end.end() == 143


def test_more_clients_than_descriptors(muxfs: Runner) -> None:
    """Those that cannot be accepted wait in the kernel; nobody is lost."""
    few = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); import muxfs.cli as c; "
    listen = muxfs.start("listen", "job", "0:1", "--json", program=("-c", few + "c.main()"))
    port = listen.event("listening")["port"]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    assert "22 are open (see ulimit -n)" in listen.event("overloaded")["reason"]
    muxfs.start("dial", "job", "--json").event("established")
    for client in clients:  # each is served at last: nothing listens on port 1
        client.settimeout(60)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_restarted_end_is_found_again(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "0:1", "--json")
    for generation in (1, 2, 3):
        dial = muxfs.start("dial", "job", "--json")
        dial.event("established")
        listen.wait_for(
            lambda generation=generation: [
                e
                for e in listen.events
                if e["event"] == "established" and e["generation"] == generation
            ]
        )
        dial.end(signal.SIGKILL if generation == 2 else signal.SIGTERM)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads(muxfs: Runner, unbuffered: str) -> None:
    """A reader that went away is no reason to end a tunnel, nor for another exit code."""
    listen = muxfs.start("listen", "job", "0:1", "--json")
    listen.event("waiting")
    quiet = subprocess.Popen(
        [*listen.process.args[:2], "muxfs", "dial", "job", "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "MUXFS_HOME": str(muxfs.home), "PYTHONUNBUFFERED": unbuffered},
    )
    assert quiet.stdout is not None
    quiet.stdout.close()
    listen.event("established")
    assert quiet.poll() is None
    quiet.terminate()
    assert quiet.wait(60) == 143


# Errors


def fails(command: Command, code: int, *words: str) -> None:
    """It ended with the code and one plain line."""
    assert command.wait() == code
    *_, line = command.lines["stderr"]
    assert line.startswith("muxfs: ")
    assert "Traceback" not in command.stderr
    for word in words:
        assert word in line


def test_port_in_use(muxfs: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = muxfs.start("listen", "job", f"{port}:8888", "--json")
        words = f"port {port} of localhost is in use; -L 0:localhost:8888 picks a free one"
        fails(listen, 69, words)
        closed = listen.event("closed")
        assert closed["exit"] == 69


def test_bind_address_of_nobody(muxfs: Runner) -> None:
    fails(
        muxfs.start("listen", "job", "192.0.2.1:0:a:1", "--any-user"),
        69,
        "cannot listen on port 0 of 192.0",
    )


class Forbidding:
    """An endpoint whose kernel gives it no privileged port."""

    async def add_forward(self, _: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")


async def test_port_for_root() -> None:
    with pytest.raises(Failure, match=r"port 80 of localhost .* choose one above 1023") as caught:
        await ends._open_port(Forbidding(), Forward(Port(80), Target("localhost", 8888)), None)
    assert caught.value.exit_code == 77


def test_ports_for_other_hosts(muxfs: Runner) -> None:
    listen = muxfs.start("listen", "job", "*:0:localhost:1")
    fails(listen, 77, "other hosts can connect to 0.0.0.0; --any-user lets")
    muxfs.start("listen", "job", "*:0:localhost:1", "--any-user", "--json").event("waiting")


def test_no_such_directory(muxfs: Runner, tmp_path: Path) -> None:
    path = f"{tmp_path}/no/where/job"
    fails(muxfs.start("dial", path), 66, f"no such directory: {tmp_path}/no/where (mkdir -p ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_is_not_writable(muxfs: Runner, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    path = f"{tmp_path}/closed/job"
    fails(muxfs.start("dial", path), 77, f"cannot create {path}: Permission denied")


def test_unsafe_directory(muxfs: Runner, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    path = f"{tmp_path}/open"
    fails(muxfs.start("dial", path), 77, f"chmod go-w {path} (--insecure-dir to use it all")
    end = muxfs.start("dial", path, "--insecure-dir", "--json")
    end.event("waiting")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_tunnel_that_seems_to_be_somebody_elses(muxfs: Runner, tmp_path: Path) -> None:
    """As on mounts that show all files under another number."""
    path = tmp_path / "job"
    fails_without = "belongs to another user (uid 12345)"
    for step in (path, path / "sessions", path / "sessions/0"):
        step.mkdir(mode=0o700)
        os.chown(step, 12345, -1)
    for name in ("listen.mbx", "dial.mbx"):
        (path / "sessions/0" / name).touch(0o600)
        os.chown(path / "sessions/0" / name, 12345, -1)
    fails(muxfs.start("dial", str(path)), 77, fails_without)
    dial = muxfs.start("dial", str(path), "--insecure-dir", "--json")
    listen = muxfs.start("listen", str(path), "0:1", "--insecure-dir", "--json")
    dial.event("established")
    listen.event("established")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small filesystem here (needs root)")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_disk(muxfs: Runner, small_disk: Path) -> None:
    command = muxfs.start("dial", f"{small_disk}/job")
    fails(command, 73, "No space left on device", "the mailbox file needs 16.0 MiB (see --ring)")
    smaller = muxfs.start("dial", f"{small_disk}/job", "--ring", "1M", "--json")
    smaller.event("waiting")


def test_a_file_that_may_not_grow(muxfs: Runner) -> None:
    command = muxfs.start("dial", "job")
    command.says("waiting")
    command.end()
    program = 'ulimit -f 4096; exec "$0" -m muxfs dial limited'
    limited = subprocess.run(
        ["bash", "-c", program, command.process.args[0]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "MUXFS_HOME": str(muxfs.home)},
    )
    assert limited.returncode == 73
    assert limited.stderr.splitlines()[-1].startswith("muxfs: cannot use ")


def test_second_one_of_the_same_role(muxfs: Runner) -> None:
    forward = f"{unused_port()}:1"
    first = muxfs.start("listen", "job", forward, "--json")
    first.event("waiting")
    second = muxfs.start("listen", "job", forward)
    fails(second, 75, socket.gethostname(), f"pid {first.process.pid}", "--takeover")
    third = muxfs.start("listen", "job", forward, "--takeover", "--json")
    third.event("waiting")
    muxfs.start("dial", "job")
    assert third.event("established")["session"] == 0
    fails(first, 75, "another process took this side over")
    assert first.event("closed")["code"] == "SUPERSEDED"
    assert third.process.poll() is None


def test_mailbox_of_a_killed_process_does_not_look_alive(muxfs: Runner) -> None:
    first = muxfs.start("listen", "job", "0:1", "--json")
    first.event("waiting")
    first.end(signal.SIGKILL)
    muxfs.start("listen", "job", "0:1", "--json").event("waiting")


def test_newer_protocol_version(muxfs: Runner) -> None:
    dial = muxfs.start("dial", "job", "--json")
    dial.event("waiting")
    birth = wire.encode_birth(wire.Birth(wire.Role.LISTEN, wire.Incarnation(1, bytes(16))))
    newer = bytearray(birth[:-8])
    newer[8] = 2
    digest = xxhash.xxh3_64_digest(newer)
    path = muxfs.home / "job/sessions/0/listen.mbx"
    path.write_bytes(bytes(newer) + digest + bytes(wire.HEAD_LENGTH))
    fails(dial, 76, "the other side speaks protocol version 2.0, this one 1.0")
    assert dial.event("closed")["code"] == "VERSION"


def test_mailbox_that_is_a_symlink(muxfs: Runner) -> None:
    end = muxfs.start("dial", "job", "--json")
    end.event("waiting")
    end.end()
    path = muxfs.home / "job/sessions/0/dial.mbx"
    path.unlink()
    path.symlink_to("/etc/passwd")
    fails(muxfs.start("dial", "job"), 77, "dial.mbx")
