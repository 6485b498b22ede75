"""Where Slurm's options end."""

from __future__ import annotations

import pytest

from muxfs.slurm import options


@pytest.mark.parametrize(
    ("command", "line", "rest"),
    [
        ("srun", "hostname", "hostname"),
        ("srun", "-N 2 -n4 hostname --tunnel=x", "hostname --tunnel=x"),
        ("srun", "-vn 4 hostname", "hostname"),
        ("srun", "--nodes 2 --pty --label bash -l", "bash -l"),
        ("srun", "--nodes=2 -- -odd", "-- -odd"),
        ("srun", "-W 5 -K hostname", "hostname"),
        ("srun", "--immediate hostname", "hostname"),
        ("sbatch", "-W job.sh -a 3", "job.sh -a 3"),
        ("sbatch", "--wait -a 1-3 job.sh", "job.sh"),
        ("sbatch", "-p debug -J name -t 5 --mem 10 job.sh", "job.sh"),
        ("salloc", "-W 5 -N1 -F file sh", "sh"),
        ("salloc", "-N1", ""),
        ("srun", "--no-such-option=3 --nor-this hostname", "hostname"),
    ],
)
def test_the_command_begins_where_getopt_stops(command: str, line: str, rest: str) -> None:
    parsed = options.parse(command, line.split())
    assert list(parsed.rest) == rest.split()
    assert parsed.without() + list(parsed.rest) == line.split()


def test_options_are_found_in_both_spellings() -> None:
    line = options.parse("srun", ["--tunnel=1:2", "-N", "2", "--tunnel", "3:4", "x", "--tunnel=no"])
    assert line.values("tunnel") == ["1:2", "3:4"]
    assert line.value("N") == "2"
    assert line.without("tunnel") == ["-N", "2"]
    assert line.has("N")
    assert not line.has("n")
