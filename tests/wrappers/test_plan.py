"""What --tunnel means: the table of slurm-spank-stunnel."""

from __future__ import annotations

import pytest

from muxfs.slurm.plan import Command, Plan, SpecError

HERE, NODE = "login1 (this host)", "the job's first node"


@pytest.mark.parametrize("command", list(Command))
@pytest.mark.parametrize("letter", ["", "L", "R", "-L", "-R"])
def test_who_listens(command: Command, letter: str) -> None:
    plan = Plan.parse(f"{letter}8001:db:8000", command)
    outward = letter.removeprefix("-") in ({"", "L"} if command is Command.SRUN else {"", "R"})
    assert [str(f) for f in plan.submission] == (["8001:db:8000"] if outward else [])
    assert [str(f) for f in plan.job] == ([] if outward else ["8001:db:8000"])
    listener, dialler = (HERE, NODE) if outward else (NODE, HERE)
    words = f"port 8001 of {listener} leads to db:8000, as {dialler} sees it"
    assert plan.sentences("login1") == [words]


def test_both_sides_consent_to_what_is_asked_and_no_more() -> None:
    plan = Plan.parse("8001:8000, 8889:8888,0:8000,L1900:license_server:1900", Command.SBATCH)
    listen = ["8001:localhost:8000", "8889:localhost:8888", "0:localhost:8000"]
    assert plan.listen_words == [*listen, "--allow=license_server:1900"]
    dial = ["localhost:8000", "localhost:8888", "-L", "1900:license_server:1900"]
    assert plan.dial_words == dial
    assert plan.sentences("login1")[2].startswith(f"a free port of {HERE} leads")


def test_lists_have_no_limit() -> None:
    plan = Plan.parse(
        ",".join(f"{port}:a-rather-long-name:80" for port in range(2000, 4000)), Command.SRUN
    )
    assert len(plan.submission) == 2000


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "8001", "8001:", ":8000", "X8001:8000", "D1080:80", "8001:8000,", "80:80"),
        *("8001:a:b:80", "8001:::1:80", "8001:0", "70000:80", "8001:70000", "8001:-1", "+8001:80"),
        *("8001:a b:80", "8001:$(id):80", "8001:/etc:80", "8001:[:80", "8001:[x]:80", "8001:\n:80"),
    ],
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(SpecError):
        Plan.parse(text, Command.SRUN)


def test_ipv6() -> None:
    assert Plan.parse("8001:[::1]:80", Command.SRUN).dial_words == ["[::1]:80"]
