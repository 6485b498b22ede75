"""What the doctor says of one host: findings, each with a verdict."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

import attrs


class Verdict(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # muxfs works, but something deserves a look
    PROBLEM = "problem"  # muxfs cannot work there


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    """What was found, in words, on one line."""
    advice: str = ""
    """What to do about it, or ""."""
    facts: Mapping[str, object] = attrs.field(factory=dict)
    """The same for programs; values that JSON knows."""


_BADNESS: Final = (Verdict.OK, Verdict.WARNING, Verdict.PROBLEM)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of all; OK if there are none."""
    return max((finding.verdict for finding in findings), key=_BADNESS.index, default=Verdict.OK)
