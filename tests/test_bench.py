"""The benchmark can be started, and what it starts by itself works; its figures are not tested."""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import pkgutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import bench
from bench import __main__, fileforward, goals, latency, network, polling, report, simulations
from bench.sizes import QUICK, Sizes
from muxfs.core import wire

ROOT = Path(__file__).parents[1]
MODULES = sorted(module.name for module in pkgutil.iter_modules(bench.__path__))
SERVERS = [latency.Server(0.0, 0), latency.Server(0.0, 20e6)]


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    if name in {"plots", "publish"}:
        pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install '.[bench]'")
    importlib.import_module(f"bench.{name}")


@pytest.mark.parametrize("part", __main__.PARTS)
def test_command_line_of(part: str) -> None:
    options = __main__.parse([part, "--quick", "--rounds", "2", "--muxfs-options", "--ring 1M"])
    assert options.parts == [part]
    assert options.peers == list(__main__.PEERS)
    assert options.muxfs_options == ["--ring", "1M"]
    run = __main__.Run(options, QUICK)
    assert callable(getattr(run, f"_{part}"))
    assert run.machine["filesystem of --directory"]
    json.dumps(run.as_json())


@pytest.mark.parametrize("words", [["unknown"], ["--peers", "unknown"]])
def test_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.parse(words)
    assert "'unknown' is none of" in capsys.readouterr().err


def test_command_line_of_network() -> None:
    assert network.parse(["--quick", "nfs3", "nfs4.2"]).labs == ["nfs3", "nfs4.2"]


def test_batches_are_bounded() -> None:
    """In a process of its own, as the benchmark does it."""
    asked = (
        "from bench.batches import bound; from muxfs import SessionConfig; "
        "bound(65536); print(SessionConfig().engine_config().max_batch)"
    )
    argv = [sys.executable, "-c", asked]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(run.stdout) == wire.MIN_MAX_BATCH
    assert min(Sizes().batches) == wire.MIN_MAX_BATCH
    assert max(Sizes().batches) == wire.DEFAULT_MAX_BATCH


def test_no_bound_where_nothing_takes_time() -> None:
    without, linked = (latency.measure(server) for server in SERVERS)
    assert SERVERS[0].bound is None
    assert without.rate is None
    assert linked.rate is not None
    assert 0 < linked.rate <= 1.1 * 20e6
    assert latency.middle([without, without]) == without


def test_simulations_side_by_side() -> None:
    said: list[str] = []
    jobs = [polling.Job("websocket-keepalive", policy, 3) for policy in ("1/8", "every 1 s")]
    outcomes = simulations.run_all(polling.simulate, jobs, said.append)
    assert outcomes[0].late < outcomes[1].late
    assert said[1] == "simulated: websocket-keepalive, every 1 s (2 of 2)"


def test_single_runs_are_known() -> None:
    results = report.Results()
    for _ in range(2):
        results.add("muxfs", {"twice": 1.0})
    results.add("muxfs", {"once": 1.0})
    assert results.single() == ["once"]


def test_lock_that_seems_a_deadlock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel says so where threads of two processes wait for each other's files."""
    tries = iter([OSError(errno.EDEADLK, "deadlock"), OSError(errno.EDEADLK, "deadlock"), None])

    def lockf(descriptor: int, how: int) -> None:
        error = next(tries)
        if error:
            raise error

    monkeypatch.setattr(fcntl, "lockf", lockf)
    (tmp_path / "file").touch()
    with fileforward.locked(tmp_path / "file"):
        pass
    assert list(tries) == []


def test_goals_are_judged_by_what_was_measured() -> None:
    results = report.Results()
    for rate, echo in ((2400.0, 900.0), (2600.0, 950.0), (2500.0, 910.0)):
        results.add("muxfs", {"one stream up [MB/s]": rate, "echo p50 [us]": echo})
    results.add("ssh -L", {"one stream up [MB/s]": 500.0, "echo p50 [us]": 300.0})
    shares = report.Curves(latency.SHARES, latency.X, "share", [1.0, 20.0])
    shares.series["a link"] = [1.0, 0.7]
    rows = {row[0]: row[1:] for row in goals.table(results, [shares])}
    assert rows["one stream up / ssh -L"] == ["at least 4", "5", "yes"]
    assert rows["echo p50 / ssh -L"] == ["at most 3", "3.03", "no"]
    assert rows["simulated 20 ms, a link: share of the bound"] == ["at least 0.8", "0.7", "no"]
    assert rows["16 streams down / one"] == ["at least 1", "-", "-"]


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=10)
        server, _ = listener.accept()
        server.settimeout(10)
        return client, server


def send_endlessly(connection: socket.socket) -> None:
    while True:
        connection.sendall(bytes(1 << 16))


def test_connection_that_is_left_in_the_middle(tmp_path: Path) -> None:
    """Both sides of the stand-in end, and leave no file that somebody goes on looking at."""
    name = tmp_path / "name"
    for suffix in (".up", ".down"):
        name.with_suffix(suffix).touch()
    (client, near), (service, far) = connected(), connected()
    sides = [
        threading.Thread(target=fileforward.carry, args=arguments, daemon=True)
        for arguments in ((near, name, ".up", ".down"), (far, name, ".down", ".up"))
    ]
    for side in sides:
        side.start()
    with client, service:
        client.sendall(b"x")
        assert service.recv(1) == b"x"
        service.sendall(b"y" * 8)
        assert client.recv(1) == b"y"
        client.close()
        with pytest.raises(ConnectionError):
            send_endlessly(service)
    for side in sides:
        side.join(10)
        assert not side.is_alive()
    assert list(tmp_path.iterdir()) == []
