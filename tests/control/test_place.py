"""Where control sockets are: private, one for each end, and replaced after a kill."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muxfs.control import place
from muxfs.control.place import Place, Unsafe

TUNNEL = "/home/ann/.muxfs/job"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def sockets(runtime: Path) -> list[str]:
    return sorted(path.name for path in (runtime / "muxfs").glob("*.sock"))


def reaches(runtime: Path, name: str, listener: socket.socket) -> bool:
    """Whether who connects to that name reaches that listener."""
    with socket.socket(socket.AF_UNIX) as client:
        with place.opened(str(runtime / "muxfs")) as directory:
            client.connect(place.address(directory, name))
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def test_only_the_owner_has_access(runtime: Path) -> None:
    taken = Place.take(TUNNEL, "listen")
    directory = runtime / "muxfs"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    taken.leave()
    assert list(directory.iterdir()) == []


def test_no_path_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """unix(7) allows 108 bytes."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    taken = Place.take("/" + "y" * 3000, "dial")
    (name,) = sockets(long)
    assert reaches(long, name, taken.listener)
    taken.leave()


def test_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert place.directories() == [f"/tmp/muxfs-{uid}"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert place.directories() == [f"/tmp/muxfs-{uid}"]


def test_a_runtime_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job that inherited the variable from the login node."""
    monkeypatch.setattr(place, "directories", lambda: [str(tmp_path / "gone/muxfs"), str(other)])
    other = tmp_path / "other"
    assert place.make_directory() == str(other)


def test_filesystems_that_are_not_suitable(runtime: Path) -> None:
    with pytest.raises(Unsafe, match="other hosts may share"):
        Place.take(TUNNEL, "listen", lambda _: False)
    assert not (runtime / "muxfs").exists()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o770, 0o777])
def test_a_directory_that_others_can_enter(runtime: Path, mode: int) -> None:
    directory = runtime / "muxfs"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(Unsafe, match=f"others have access to .*chmod 700 {directory}"):
        place.open_directory(str(directory))


def test_a_symbolic_link(runtime: Path) -> None:
    (runtime / "real").mkdir(mode=0o700)
    (runtime / "muxfs").symlink_to("real")
    with pytest.raises(Unsafe, match="not a directory"):
        place.open_directory(str(runtime / "muxfs"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user(runtime: Path) -> None:
    directory = runtime / "muxfs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(Unsafe, match=r"user \(uid 12345\); set XDG_RUNTIME_DIR to"):
        place.open_directory(str(directory))


def test_ends_of_one_tunnel_have_a_place_each(runtime: Path) -> None:
    first, second = Place.take(TUNNEL, "listen"), Place.take(TUNNEL, "listen")
    other = Place.take(TUNNEL + "2", "listen")
    assert len(sockets(runtime)) == 3
    first.leave()
    again = Place.take(TUNNEL, "listen")
    assert reaches(runtime, f"{place.stem(TUNNEL, 'listen', 0)}.sock", again.listener)
    assert reaches(runtime, f"{place.stem(TUNNEL, 'listen', 1)}.sock", second.listener)
    for taken in (again, second, other):
        taken.leave()
    assert sockets(runtime) == []


def test_places_are_bounded(runtime: Path) -> None:
    taken = [Place.take(TUNNEL, "listen") for _ in range(place.SLOTS)]
    with pytest.raises(Unsafe, match=f"{place.SLOTS} others"):
        Place.take(TUNNEL, "listen")
    for one in taken:
        one.leave()


@pytest.mark.parametrize("attempt", range(5))
def test_many_at_once(runtime: Path, attempt: int) -> None:
    """Each has a socket of its own, and none lost its socket to another one."""
    with ThreadPoolExecutor(place.SLOTS) as pool:
        taken = list(pool.map(lambda _: Place.take(TUNNEL, "dial"), range(place.SLOTS)))
    assert len(sockets(runtime)) == place.SLOTS
    for one in taken:
        assert reaches(runtime, f"{one._name}.sock", one.listener)
    for one in taken:
        one.leave()


def test_the_socket_of_a_killed_process_is_replaced(runtime: Path) -> None:
    program = (
        "from muxfs.control.place import Place; import sys; "
        f"place = Place.take({TUNNEL!r}, 'listen'); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        live = Place.take(TUNNEL, "listen")  # beside it
        process.send_signal(signal.SIGKILL)
    name = f"{place.stem(TUNNEL, 'listen', 0)}.sock"
    assert name in sockets(runtime)
    replaced = Place.take(TUNNEL, "listen")
    assert reaches(runtime, name, replaced.listener)
    assert len(sockets(runtime)) == 2
    replaced.leave()
    live.leave()


def test_what_killed_ends_of_other_tunnels_left_is_removed(runtime: Path) -> None:
    """Not so what live ones have, nor what is not a control socket's."""
    alive = Place.take("/home/ann/.muxfs/alive", "dial")
    left = Place.take("/home/ann/.muxfs/left", "dial")
    os.close(left._lock)  # as SIGKILL does
    left.listener.close()
    directory = runtime / "muxfs"
    (directory / "other.log").write_text("kept")
    before = {path.name for path in directory.iterdir()}

    taken = Place.take(TUNNEL, "listen")

    gone = before - {path.name for path in directory.iterdir()}
    assert gone == {f"{left._name}.sock", f"{left._name}.lock"}
    assert reaches(runtime, f"{alive._name}.sock", alive.listener)
    taken.leave()
    alive.leave()


def test_a_lock_that_was_removed_while_it_was_waited_for(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner removes the file: who waited for that one must not believe to have it."""
    (runtime / "muxfs").mkdir(mode=0o700)
    with place.opened(str(runtime / "muxfs")) as directory:
        first = place.lock(directory, "it", wait=False)
        with pytest.raises(BlockingIOError):
            place.lock(directory, "it", wait=False)
        got: list[int] = []
        opened = threading.Event()
        flock = fcntl.flock

        def told(descriptor: int, how: int) -> None:
            opened.set()
            flock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", told)
        waiting = threading.Thread(
            target=lambda: got.append(place.lock(directory, "it", wait=True))
        )
        waiting.start()
        assert opened.wait(60)
        os.unlink("it", dir_fd=directory)
        second = place.lock(directory, "it", wait=False)  # a new file of the name
        os.close(first)
        os.close(second)
        waiting.join()
        assert os.path.samestat(os.fstat(got[0]), os.stat("it", dir_fd=directory))
        os.close(got[0])


def test_a_removed_socket_is_noticed(runtime: Path) -> None:
    taken = Place.take(TUNNEL, "listen")
    assert not taken.lost
    (runtime / "muxfs" / sockets(runtime)[0]).unlink()
    assert taken.lost
    newer = Place.take(TUNNEL, "listen")
    taken.leave()
    assert reaches(runtime, sockets(runtime)[0], newer.listener)
    newer.leave()


def test_leaving_spares_what_a_successor_made(runtime: Path) -> None:
    """All was removed, such as by logind at the last logout, and made again by another end."""
    taken = Place.take(TUNNEL, "listen")
    for path in (runtime / "muxfs").iterdir():
        path.unlink()
    (runtime / "muxfs").rmdir()
    newer = Place.take(TUNNEL, "listen")
    taken.leave()
    assert reaches(runtime, f"{place.stem(TUNNEL, 'listen', 0)}.sock", newer.listener)
    newer.leave()
