"""`muxfs srun`, `sbatch` and `salloc`, with Slurm's commands played back."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muxfs.slurm import own
from muxfs.slurm.wrappers import HOOK

from .conftest import Wrappers

ALL = ("srun", "sbatch", "salloc")
LIST = "8001:8000"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-N", "2", "--tunnels", "prog", "--tunnel=x", "a b", ""],
        ["--version"],
        ["prog"],
    ],
)
def test_without_a_tunnel_all_goes_to_slurm(
    wrappers: Wrappers, name: str, words: list[str]
) -> None:
    done = wrappers.run(name, *words, stdin="abc")
    assert done.told["argv"] == words
    assert done.told["stdin"] == "abc"
    assert not done.told["environ"]
    assert (done.status, done.err) == (7, "words of its own\n")


@pytest.mark.parametrize("name", ALL)
def test_a_list_that_makes_no_sense_submits_nothing(wrappers: Wrappers, name: str) -> None:
    done = wrappers.run(name, "--tunnel=80:8000", "prog")
    assert (done.status, done.told) == (2, {})
    assert done.err.startswith("muxfs: --tunnel: '80:8000' is not a tunnel: only root can listen")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "words", [["-M", "other", "x"], ["--clusters=a,b", "x"], ["--uid=1", "x"], ["-n1", ":"]]
)
def test_jobs_that_the_helpers_would_not_find_are_refused(
    wrappers: Wrappers, name: str, words: list[str]
) -> None:
    done = wrappers.run(name, f"--tunnel={LIST}", *words)
    assert (done.status, done.told) == (2, {})
    assert done.err.startswith("muxfs: --tunnel: ")
    assert "docs/slurm-admin.md" in done.err
    without = wrappers.run(name, *words)
    assert without.told["argv"] == words


def test_a_colon_of_a_script_is_its_own(wrappers: Wrappers) -> None:
    path = wrappers.place / "job.sh"
    path.write_text("#!/bin/sh\n")
    done = wrappers.run("sbatch", f"--tunnel={LIST}", str(path), ":")
    assert done.told["argv"][-1] == ":"


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    done = Wrappers(tmp_path).run("srun", "hostname", PATH=str(tmp_path))
    assert done.status == 69
    assert done.err == "muxfs: cannot run srun: No such file or directory\n"


def test_srun(wrappers: Wrappers) -> None:
    words = ["-N", "2", f"--tunnel={LIST}", "-v", "--prolog", "/own", "prog", "--tunnel=x"]
    done = wrappers.run("srun", *words, stdin="abc")
    assert done.told["argv"] == [f"--prolog={HOOK}", "-N", "2", "-v", "prog", "--tunnel=x"]
    assert done.told["stdin"] == "abc"
    assert done.told["environ"]["SLURM_MUXFS_PROLOG"] == "/own"
    assert "--step" not in done.told["environ"]["SLURM_MUXFS_START"]
    assert done.status == 7
    assert "(this host) leads to localhost:8000, as the job's first node sees it" in done.err


def test_srun_within_a_job_has_a_tunnel_beside_the_jobs(wrappers: Wrappers) -> None:
    done = wrappers.run("srun", f"--tunnel={LIST}", "prog", SLURM_JOB_ID="7")
    assert done.told["environ"]["SLURM_MUXFS_START"].endswith(' --step="$SLURM_STEP_ID"')


def test_the_prolog_never_fails_and_runs_the_users(tmp_path: Path) -> None:
    """For srun gives up the step where its prolog fails."""
    noted = tmp_path / "noted"
    program = [
        sys.executable,
        "-c",
        f"import sys; open({str(noted)!r}, 'w').write(repr(sys.argv[1:]))",
    ]
    environ = {
        "SLURM_MUXFS_START": shlex.join(program),
        "SLURM_JOB_ID": "7",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run([HOOK, "a"], env=environ, check=False)
    assert done.returncode == 0
    own = tmp_path / "own"
    own.write_text('#!/bin/sh\necho "$@"; exit 3\n')
    own.chmod(0o755)
    environ = {"SLURM_MUXFS_START": "/no/such/program", "SLURM_MUXFS_PROLOG": str(own)}
    chained = subprocess.run(
        [HOOK, "a b"], env=environ, capture_output=True, text=True, check=False
    )
    assert (chained.returncode, chained.stdout) == (3, "a b\n")
    assert subprocess.run([HOOK], env={}, check=False).returncode == 0


def test_salloc(wrappers: Wrappers) -> None:
    done = wrappers.run("salloc", "-N1", "--tunnel", LIST, "sh", "-c", "exit 3")
    assert done.told["argv"] == ["-N1", "sh", "-c", "exit 3"]
    assert done.status == 7


SCRIPT = "#!/bin/sh\n#SBATCH -J name\necho hello\n"


def test_sbatch(wrappers: Wrappers) -> None:
    path = wrappers.place / "job.sh"
    path.write_text(SCRIPT)
    wrappers.make("sbatch", "4711;cluster")
    done = wrappers.run("sbatch", "--parsable", f"--tunnel={LIST}", str(path), "a", "b c")
    *options, script, first, second = done.told["argv"]
    assert options == ["--parsable"]
    assert (Path(script).name, first, second) == ("job.sh", "a", "b c")
    assert not Path(script).exists(), "the copy is left"
    assert done.told["script"].startswith("#!/bin/sh\n#SBATCH -J name\n")
    assert done.told["script"].endswith(SCRIPT)
    assert f"slurm serve sbatch --tunnel={LIST}" in done.told["script"]
    assert (done.status, done.out) == (7, "4711;cluster\n")


def test_sbatch_from_standard_input(wrappers: Wrappers) -> None:
    done = wrappers.run("sbatch", f"--tunnel={LIST}", "-N1", stdin=SCRIPT)
    assert done.told["argv"] == ["-N1"]
    assert done.told["stdin"].endswith(SCRIPT)
    assert "slurm serve" in done.told["stdin"]


def test_sbatch_wrap(wrappers: Wrappers) -> None:
    done = wrappers.run("sbatch", f"--tunnel={LIST}", "--wrap", "echo hello", "-N1")
    assert done.told["argv"][0] == "-N1"
    assert done.told["argv"][1].startswith("--wrap=({")
    assert done.told["argv"][1].endswith("\necho hello")


def test_a_line_in_the_script(wrappers: Wrappers) -> None:
    path = wrappers.place / "job.sh"
    path.write_text(f"#!/bin/sh\n#SBATCH --tunnel={LIST}\necho hello\n")
    done = wrappers.run("sbatch", "job.sh")
    assert "slurm serve" in done.told["script"]
    assert "\n#SBATCH --tunnel" not in done.told["script"].partition("[ -x")[0]
    piped = wrappers.run("sbatch", stdin=SCRIPT)
    assert piped.told["stdin"] == SCRIPT


def test_a_missing_script_is_for_sbatch_to_explain(wrappers: Wrappers) -> None:
    done = wrappers.run("sbatch", f"--tunnel={LIST}", "none.sh", "a")
    assert done.told["argv"] == ["none.sh", "a"]


def test_a_node_without_muxfs_runs_the_job(tmp_path: Path) -> None:
    from muxfs.slurm.batch import _START
    from muxfs.slurm.script import starting_with

    start = _START.format(python="/no/python", command="/no/python -m muxfs")
    path = tmp_path / "script"
    path.write_bytes(starting_with(start, b"#!/bin/sh\necho ran; exit 3\n"))
    path.chmod(0o700)
    done = subprocess.run([str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "ran\n")
    assert done.stderr.startswith("muxfs: no tunnel: ")


def test_a_job_does_not_wait_for_a_file_server_that_hangs(tmp_path: Path) -> None:
    """Not even for the answer whether muxfs is there."""
    from muxfs.slurm.batch import _START

    start = _START.format(python="$(cat)", command="true")  # cat reads until the end of a pipe
    reading, writing = os.pipe()
    try:
        script = f"exec 2>/dev/null\n{start.replace('</dev/null', '')}echo ran"
        done = subprocess.run(
            ["sh", "-c", script], stdin=reading, stdout=-1, timeout=60, check=True
        )
        assert done.stdout == b"ran\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_modules_of_the_users_directory_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are started in directories that have a queue.py or a random.py."""
    for name in ("queue", "random", "muxfs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the user')\n")
    monkeypatch.setenv("PYTHONPATH", own.python_path())
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(own.command("dial", "--help"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: muxfs dial")
    shell = subprocess.run(["sh", "-c", own.shell("version")], capture_output=True, check=True)
    assert shell.stdout.startswith(b"muxfs ")


@pytest.mark.parametrize("name", ALL)
def test_the_wrappers_start_without_trio(name: str) -> None:
    code = f"import sys, json; from muxfs.cli import main\nmain([{name!r}, '--tunnel=x', 'y'])\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"trio", "asyncio", "ssl", "muxfs.session"}.isdisjoint(json.loads(done.stdout))


def test_sbatch_tells_of_a_port_that_is_taken(wrappers: Wrappers) -> None:
    """For what its helper notices later reaches no terminal."""
    with socket.create_server(("127.0.0.1", 0)) as rival:
        port = rival.getsockname()[1]
        done = wrappers.run("sbatch", f"--tunnel=0:1,{port}:8000", stdin=SCRIPT)
    assert f"muxfs: port {port} of {socket.gethostname()} is in use now" in done.err
    assert done.err.count("in use") == 1
    assert done.status == 7
