"""What a tunnel asks of Python's collector, in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest


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


MEMORY = """
import os, sys, trio, trio.testing, muxfs.cli.heap as heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

async def main():
    heap.keep_freed_memory()
    carried = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heap.give_back_when_quiet, lambda: carried)
        await trio.testing.wait_all_tasks_blocked()
        batches = [bytes([65]) * (1 << 20) for _ in range(40)]
        kept = [bytes([65]) * 3000 for _ in range(100)]  # else they are at the end of the heap
        most = resident()
        del batches
        for _ in range(10):
            carried += 40 << 20
            await trio.sleep(heap.QUIET / 2)
        busy = resident()
        carried = 0  # the session is gone
        await trio.sleep(3 * heap.QUIET)
        print(most, busy, resident(), len(kept))
        nursery.cancel_scope.cancel()

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_is_kept_while_there_is_traffic_and_given_back_after_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=60
    )
    most, busy, quiet = map(int, ended.stdout.split()[:3])
    assert busy > most - 20
    assert quiet < most - 30


THREADS = """
import os, threading, muxfs.cli.heap as heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

heap.keep_freed_memory()
before, end = resident(), threading.Event()
threads = []
for _ in range(6):
    done = threading.Event()
    def work(done=done):
        bytes([65]) * (8 << 20)
        done.set()
        end.wait()  # an arena is used again once its thread has ended
    threads.append(threading.Thread(target=work))
    threads[-1].start()
    done.wait()
print(resident() - before)
end.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_what_one_thread_freed_the_next_one_uses() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(ended.stdout) < 24
