"""What a tunnel asks of Python's collector, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_full_collections_leave_out_what_was_imported() -> None:
    program = (
        "import gc, muxfs.cli.heap as heap\n"
        "before = len(gc.get_objects())\n"
        "heap.spare_the_collector()\n"
        "print(before, gc.get_freeze_count(), len(gc.get_objects()), gc.isenabled())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    before, frozen, left, enabled = ended.stdout.split()
    assert int(frozen) >= int(before) // 2
    assert int(left) < int(before) // 10
    assert enabled == "True"
