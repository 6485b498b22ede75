"""docs/doctor.md tells all that `--json` has, and no more."""

from __future__ import annotations

import re
from pathlib import Path

from muxfs.doctor.pair import Plan

from .conftest import Doctor, Start

DOCUMENT = Path(__file__).parents[2] / "docs" / "doctor.md"


def documented(after: str) -> set[str]:
    """Return the names in the first column of the first table after some words."""
    table = (
        DOCUMENT.read_text().partition(after)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    )
    return {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }


def test_the_report_is_documented(doctors: Start) -> None:
    plan = Plan(seconds=0.2, ring=2 << 20, limit=0.5)
    two: list[Doctor] = doctors(plan, plan)
    report, _ = (doctor.result() for doctor in two)
    assert documented("`pair`, where") == set(report)
    for trial in report["trials"]:
        assert documented("A trial:") == set(trial)
    hosts = re.search(r"\| `hosts` \|(.*)\|", DOCUMENT.read_text())
    assert hosts is not None
    assert set(re.findall(r"`(\w+)`", hosts[1])) == set(report["hosts"][0])
