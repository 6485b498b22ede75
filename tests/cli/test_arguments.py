"""Values of options, tunnels' directories, and what is printed of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from muxfs.cli import arguments, settings, tunnel
from muxfs.cli.failures import Failure
from muxfs.storage.access import DirectRead, DsyncWrite
from muxfs.units import amount, span


@pytest.mark.parametrize(
    ("text", "expected"),
    [("300000", 300000), ("256K", 262144), ("16M", 16 << 20), ("16MiB", 16 << 20), ("1g", 1 << 30)],
)
def test_sizes(text: str, expected: int) -> None:
    assert arguments.size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1T", "0x10", "1e9", "٣M"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30.0), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120.0), ("0", 0.0), ("200us", 2e-4)],
)
def test_durations(text: str, expected: float) -> None:
    assert arguments.duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "nan", "inf", "9" * 400, "31" * 9 + "h"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.duration(text)


def test_poll() -> None:
    assert arguments.poll("1:500") == pytest.approx((0.001, 0.5))
    assert arguments.poll("200us:2s") == pytest.approx((0.0002, 2.0))


def test_ring_is_rounded_up_to_pages() -> None:
    assert settings.capacity(300000) == 303104


def test_access() -> None:
    assert settings.access("auto") is None
    found = settings.access("direct+dsync")
    assert found is not None
    assert isinstance(found.read, DirectRead)
    assert isinstance(found.write, DsyncWrite)


def test_names_and_paths(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    named = tunnel.resolve("job42", {**environ, "MUXFS_HOME": "/shared/m"})
    assert named.path == "/shared/m/job42"
    assert named.spelling == "/shared/m/job42"  # the other side may not have the variable
    path = tunnel.resolve("./job42", environ)
    assert path.path == path.spelling == os.path.abspath("job42")
    assert path.sessions == f"{path.path}/sessions"
    assert tunnel.resolve("/a/../b/", environ).path == "/b"


def test_names_below_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    found = tunnel.resolve("job42", {})
    assert (found.path, found.spelling) == ("/home/ann/.muxfs/job42", "job42")


def test_prepare_makes_private_directories(tmp_path: Path) -> None:
    os.umask(0)
    found = tunnel.resolve("job", {"MUXFS_HOME": str(tmp_path / "home")})
    try:
        tunnel.prepare(found)
        tunnel.prepare(found)
    finally:
        os.umask(0o022)
    for path in (found.home, found.path, found.sessions):
        assert path is not None
        assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_write_to(tmp_path: Path) -> None:
    path = tmp_path / "it is open"
    path.mkdir(mode=0o700)
    path.chmod(0o770)
    found = tunnel.resolve(str(path))
    with pytest.raises(Failure, match=r"mend it with: chmod go-w '.*/it is open'") as caught:
        tunnel.prepare(found)
    assert caught.value.exit_code == 77
    tunnel.prepare(found, insecure=True)


def test_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(Failure, match=f"name the directory: {tmp_path}/real") as caught:
        tunnel.prepare(tunnel.resolve(f"{tmp_path}/link"))
    assert caught.value.exit_code == 77


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_foreign_directory(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    with pytest.raises(Failure, match=r"belongs to another user .uid 12345.") as caught:
        tunnel.prepare(tunnel.resolve(str(path)))
    assert caught.value.exit_code == 77


def test_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="is not a directory") as caught:
        tunnel.prepare(tunnel.resolve(f"{tmp_path}/file"))
    assert caught.value.exit_code == 73


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no such directory: .*/a/b \(mkdir -p ") as caught:
        tunnel.prepare(tunnel.resolve(f"{tmp_path}/a/b/c"))
    assert caught.value.exit_code == 66


def test_quoting() -> None:
    assert tunnel.quoted("/a/b") == "/a/b"
    assert tunnel.quoted("/a b") == "'/a b'"
    assert tunnel.quoted("a\x1b[31m'") == r"$'a\x1b[31m\''"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (256 << 20, "256 MiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00002, "20 us"),
        (0.0012, "1.2 ms"),
        (0.038, "38 ms"),
        (12, "12 s"),
        (60, "1 min"),
        (3720, "1 h 02 min"),
        (300000, "3 d 11 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
