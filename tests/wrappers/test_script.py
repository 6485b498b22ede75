"""Batch scripts that start a program of ours first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxfs.slurm.script import starting_with, take_tunnels

needs_csh = pytest.mark.skipif(not shutil.which("csh"), reason="needs csh")
HEAD = "#SBATCH -J name\n\n# a comment\n#SBATCH -o out\n"
START = "echo started\n"


def run(path: Path, script: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    path.write_bytes(script)
    path.chmod(0o700)
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(path), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        check=False,
    )
    assert not list(scratch.iterdir()), "a copy was left"
    return done


@pytest.mark.parametrize(
    "original",
    [
        f'#!/bin/sh\n{HEAD}echo "$# $1 $2"; exit 5\n',
        f'#!/bin/bash -e\n{HEAD}echo "$# $1 $2"\nfalse\nexit 5',
        f"#! /usr/bin/env -S {sys.executable} -I\n{HEAD}import sys\n"
        "print(len(sys.argv) - 1, *sys.argv[1:])\nsys.exit(5)\n",
        '#!/bin/sh\necho "$# $1 $2"; exit 5',
        f'#!/bin/sh\n{HEAD}echo "$# $1 $2"; exit 5\n#SBATCH --late\n',
        pytest.param(f'#!/bin/csh -f\n{HEAD}echo "$#argv $1 $2"\nexit 5\n', marks=needs_csh),
    ],
)
def test_the_original_runs_as_it_would_alone(tmp_path: Path, original: str) -> None:
    alone = run(tmp_path / "alone", original.encode(), "a", "b c")
    both = run(tmp_path / "both", starting_with(START, original.encode()), "a", "b c")
    assert alone.stdout == "2 a b c\n"
    assert both.stdout == f"started\n{alone.stdout}"
    assert both.returncode == alone.returncode
    assert both.stderr == alone.stderr


def test_it_runs_whatever_becomes_of_our_part(tmp_path: Path) -> None:
    script = starting_with("/no/such/program\nfalse\n", b"#!/bin/sh\necho ran; exit 3\n")
    done = run(tmp_path / "script", script)
    assert (done.stdout, done.returncode) == ("ran\n", 3)


def test_it_runs_where_the_first_place_for_its_copy_is_full(tmp_path: Path) -> None:
    script = starting_with(START, b"#!/bin/sh\necho ran; exit 3\n")
    (tmp_path / "tail").write_text(
        f"""#!/bin/sh
case $(readlink /proc/self/fd/1) in {tmp_path}/*) echo cut off; exit 1;; esac
exec /usr/bin/tail "$@"
"""
    )
    (tmp_path / "tail").chmod(0o700)
    path = tmp_path / "script"
    path.write_bytes(script)
    environ = {"TMPDIR": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", str(path)], capture_output=True, env=environ, check=False)
    assert (done.returncode, done.stdout) == (3, b"started\nran\n")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["script", "tail"]


def test_sbatch_sees_the_options_of_before_and_no_others() -> None:
    original = f"#!/bin/sh\n{HEAD}echo\n#SBATCH --late\n".encode()
    lines = starting_with(START, original).splitlines(keepends=True)
    first_command = next(at for at, line in enumerate(lines) if line.strip() and line[:1] != b"#")
    assert b"".join(lines[1:first_command]) == HEAD.encode()


@pytest.mark.parametrize("original", [b"", b"echo\n", b"#!/bin/sh\r\necho\r\n", b"#!/bin/sh\n\0"])
def test_what_sbatch_refuses_stays_as_it_is(original: bytes) -> None:
    assert starting_with(START, original) == original


def test_a_tunnel_in_the_script() -> None:
    original = (
        b"#!/bin/sh\n#SBATCH -N 1 --tunnel=8001:8000 -t 5\n#SBATCH --tunnel 1:2 # why\n"
        b"echo\n#SBATCH --tunnel=3:4\n"
    )
    specs, rest = take_tunnels(original)
    assert specs == ["8001:8000", "1:2"]
    assert rest == b"#!/bin/sh\n#SBATCH -N 1 -t 5\n#\necho\n#SBATCH --tunnel=3:4\n"
    assert take_tunnels(b"#!/bin/sh\n# --tunnel\necho\n") == ([], b"#!/bin/sh\n# --tunnel\necho\n")
