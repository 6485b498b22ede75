"""The table of filesystems, and the one in docs/filesystems.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muxfs.storage.access import READS, WRITES
from muxfs.storage.choices import (
    CHOICES,
    OTHERWISE,
    Kind,
    Source,
    choice_for,
    other_reads,
    stronger_write,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "filesystems.md"


def documented() -> dict[str, tuple[str, str, float]]:
    """Type -> (access, source, least pause in seconds), as the document's table says it."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or "+" not in cells[2]:
            continue
        _, types, access, source, why = cells
        pause = re.search(r"pause of (\d+) ms", why)
        seconds = int(pause[1]) / 1000 if pause else 0.0
        for name in re.findall(r"`([^`]+)`", types) or ["anything else"]:
            assert name not in found, f"{name} stands there twice"
            found[name] = (access.strip("`"), source, seconds)
    return found


def test_document_and_code_agree() -> None:
    coded = {
        name: (choice.access, choice.source.value, choice.least_pause)
        for choice in CHOICES
        for name in choice.types
    }
    coded["anything else"] = (OTHERWISE.access, OTHERWISE.source.value, OTHERWISE.least_pause)

    assert documented() == coded


def test_what_documentation_says_is_cited() -> None:
    """Each type that rests on it has a row in the document's table of sources."""
    rows = DOCUMENT.read_text().partition("What the rows with *documentation* rest on")[2]
    table = rows.partition("\n## ")[0].lower()
    for choice in CHOICES:
        if choice.source is Source.DOCUMENTED:
            for name in choice.types:
                assert name in table, name


def test_all_strategies_exist() -> None:
    for choice in (*CHOICES, OTHERWISE):
        assert choice.make().name == choice.access


def test_only_what_one_kernel_has_is_read_on_the_event_loop() -> None:
    for choice in (*CHOICES, OTHERWISE):
        access = choice.make()
        assert choice.kind is not Kind.NETWORK or not access.read.immediate
        assert (choice.kind is Kind.MEMORY) is access.write.inline


def test_what_nobody_knows_is_treated_like_the_worst() -> None:
    for name in ("", "?", "fuse", "fuse.something", "unknown"):
        assert choice_for(name) is OTHERWISE
    assert OTHERWISE.source is Source.SAFEST


@pytest.mark.parametrize(
    ("name", "source", "pause"),
    [
        ("fuse", "mfs#master:9421", 0.001),
        ("fuse.mfs", "", 0.001),
        ("fuse", "mfs", 0.0),
        ("nfs4", "mfs#no", 0.0),
    ],
)
def test_moosefs_by_its_source(name: str, source: str, pause: float) -> None:
    assert choice_for(name, source).least_pause == pause


def test_other_reads_are_all_that_go_past_a_cache_but_the_one_in_use() -> None:
    for name in READS:
        assert set(other_reads(name)) == {"direct", "dontneed", "statx", "reopen"} - {name}
        assert set(other_reads(name)) <= set(READS)


def test_stronger_writes_end() -> None:
    for name in WRITES:
        seen = [name]
        while (following := stronger_write(seen[-1])) is not None:
            assert following in WRITES
            assert following not in seen
            seen.append(following)
        assert seen[-1] == "close"
    assert stronger_write("memory") == stronger_write("plain") == "dsync"
