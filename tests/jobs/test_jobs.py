"""Names of jobs and of their tunnels."""

from __future__ import annotations

import pytest

from muxfs.cli.failures import Failure
from muxfs.cli.jobs import take_tunnel
from muxfs.slurm.jobs import BadJobId, JobId, ThisJob, job_of, this_job, tunnel_of


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("123", JobId(123)),
        ("123_4", JobId(123, task=4)),
        ("123_0", JobId(123, task=0)),
        ("123+1", JobId(123, component=1)),
    ],
)
def test_ids(text: str, job: JobId) -> None:
    assert JobId.parse(text) == job
    assert str(job) == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "x", "123_", "123_4+1", "1.batch", "../1", "9" * 11, "123_[1-4]"],
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(BadJobId, match="is not a job id"):
        JobId.parse(text)


def test_tunnels() -> None:
    assert tunnel_of(123) == "slurm-123"
    assert job_of("slurm-123") == 123
    for name in ("slurm-", "slurm-0", "slurm-1x", "slurm-01", "job", "slurm-123/", "xslurm-1"):
        assert job_of(name) is None


def test_this_job() -> None:
    assert this_job({}) is None
    assert this_job({"SLURM_JOB_ID": "x"}) is None
    assert this_job({"SLURM_JOB_ID": "12_3"}) is None
    assert this_job({"SLURM_JOB_ID": "12"}) == ThisJob(12, 0)
    environ = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}
    assert this_job(environ) == ThisJob(12, 2)
    assert ThisJob(12, 0).label == "job 12"
    assert ThisJob(12, 2).label == "job 12 restart 2"


def test_the_tunnel_comes_first_as_ever() -> None:
    assert take_tunnel(["8888", "6006"], None) == ("8888", ["6006"])
    with pytest.raises(Failure, match="name the TUNNEL"):
        take_tunnel([], None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, [])),
        (["8888"], (None, ["8888"])),
        (["{port}"], (None, ["{port}"])),
        (["8001:8000,8889:8888"], (None, ["8001:8000,8889:8888"])),
        (["license:1900"], (None, ["license:1900"])),
        (["R8001:8000"], (None, ["R8001:8000"])),
        (["[::1]:80"], (None, ["[::1]:80"])),
        (["mine", "8888"], ("mine", ["8888"])),
        (["/scratch/a:b", "8888"], ("/scratch/a:b", ["8888"])),
        (["./mine"], ("./mine", [])),
    ],
)
def test_of_a_job_it_may_be_left_out(
    words: list[str], expected: tuple[str | None, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take_tunnel(words, JobId(12)) == expected
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    tunnel, rest = expected
    assert take_tunnel(words, None) == (tunnel or "slurm-77", rest)


def test_a_tunnel_that_is_named_as_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """`muxfs dial $SLURM_JOB_ID 8888` means what it always meant."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert take_tunnel(["77", "8888"], None) == ("77", ["8888"])


@pytest.mark.parametrize(
    ("label", "replaced"),
    [
        ("job 12", True),
        ("job 12 restart 1", True),
        ("job 12 restart 2", False),
        ("job 12 restart 3", False),
        ("job 13", False),
        ("", False),
        ("job 12 restart x", False),
        ("my job 12", False),
    ],
)
def test_only_an_earlier_instance_of_the_same_job_is_replaced(label: str, replaced: bool) -> None:
    assert ThisJob(12, 2).replaces(label) is replaced
