"""The NFS client's own count of its requests, by mount (`/proc/self/mountstats`)."""

from __future__ import annotations

import os
from typing import Final

MOUNTSTATS: Final = "/proc/self/mountstats"

Counts = dict[str, int]
"""Requests so far by operation, such as READ or GETATTR."""


def read_counts(mount_point: str) -> Counts | None:
    """Return the requests of the mount so far; None where the kernel does not count them."""
    try:
        with open(MOUNTSTATS, encoding="utf-8", errors="surrogateescape") as file:
            return parse_counts(file.read(), mount_point)
    except OSError:
        return None


def parse_counts(text: str, mount_point: str) -> Counts | None:
    """Find the mount in the text; the last one, where several lie over one another."""
    counts: Counts | None = None
    found = counting = False
    # the kernel escapes what would break a line or a word (seq_path, mangle)
    escaped = _escaped(os.fsencode(mount_point)).decode(errors="surrogateescape")
    for line in text.splitlines():
        if line.startswith("device "):
            words = line.split(" ")
            found = len(words) > 4 and words[4] == escaped and words[2:4] == ["mounted", "on"]
            counting = False
        elif found and line.strip() == "per-op statistics":
            counts, counting = {}, True
        elif found and counting and counts is not None:
            name, colon, numbers = line.strip().partition(":")
            first = numbers.split()[:1]
            if colon and first and first[0].isdecimal():
                counts[name] = int(first[0])
    return counts


def difference(before: Counts | None, after: Counts | None) -> Counts | None:
    """Return the requests between two readings, without the operations that had none."""
    if before is None or after is None:
        return None
    rest = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in rest.items() if count > 0}


def _escaped(path: bytes) -> bytes:
    for byte in (b"\\", b" ", b"\t", b"\n"):
        path = path.replace(byte, b"\\%03o" % byte[0])
    return path
