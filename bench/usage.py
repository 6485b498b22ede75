"""What processes cost the machine while nothing happens: from /proc, and by strace."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.peers import Running

Figures = Mapping[str, float]
SETTLE = 20.0
"""Seconds after which the polls of an idle tunnel are at their slowest."""

LOOKS = 5
"""At the memory of idle peers."""

FILE_CALLS = (
    "pread64,preadv,preadv2,pwrite64,pwritev,pwritev2,openat,stat,lstat,fstat,newfstatat,statx,"
    "fsync,fdatasync,ftruncate,fallocate,unlink,unlinkat,getdents64,readlink,rename,flock,fcntl"
)
"""System calls that a file server would see, or some of them. (Sockets use read and recvfrom.)"""


def _family(root: int) -> set[int]:
    """Return a process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                status = (entry / "stat").read_text()
                parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family & set(parents)


def _fields(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _usage(side: int) -> dict[str, float]:
    """Return what a side's processes have used so far, and their memory."""
    used = dict.fromkeys(("cpu", "wake-ups", "memory"), 0.0)
    for pid in _family(side):
        process = Path(f"/proc/{pid}")
        used["memory"] += int(_fields(process / "status")["VmRSS"].split()[0]) * 1024
        for task in (process / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                used["cpu"] += int((task / "schedstat").read_text().split()[0]) / 1e9
                status = _fields(task / "status")
                used["wake-ups"] += int(status["voluntary_ctxt_switches"])
    return used


def memory(peer: Running) -> float:
    """Return the resident memory of the larger side, in MiB."""
    return max(_usage(side)["memory"] for side in peer.sides) / 2**20


def processor_time(peer: Running) -> float:
    """Return what both sides together have used so far, in seconds."""
    return sum(_usage(side)["cpu"] for side in peer.sides)


def idle(peers: Sequence[Running], seconds: float) -> list[dict[str, Figures]]:
    """Leave all peers alone for a while; return what the busier side of each has used.

    What they use is counted once, from begin to end; their memory is looked at several times
    meanwhile: each look is in a dict of its own.
    """
    time.sleep(min(SETTLE, seconds))
    measured = [peer for peer in peers if peer.sides]
    start = time.perf_counter()
    before = {peer.name: [_usage(side) for side in peer.sides] for peer in measured}
    looks: list[dict[str, Figures]] = []
    for _ in range(LOOKS):
        time.sleep(seconds / LOOKS)
        looks.append({peer.name: {"memory of a side [MiB]": memory(peer)} for peer in measured})
    after = {peer.name: [_usage(side) for side in peer.sides] for peer in measured}
    elapsed = time.perf_counter() - start
    figures: dict[str, Figures] = {}
    for name, sides in after.items():
        rates = [
            {key: (used[key] - earlier[key]) / elapsed for key in used}
            for used, earlier in zip(sides, before[name], strict=True)
        ]
        figures[name] = {
            "idle CPU of a side [%]": max(rate["cpu"] for rate in rates) * 100,
            "idle wake-ups of a side [1/s]": max(rate["wake-ups"] for rate in rates),
        }
    return [figures, *looks]


@contextlib.contextmanager
def _traced(processes: set[int], report: Path) -> Iterator[None]:
    argv = ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-e", f"trace={FILE_CALLS}"]
    argv += ["-o", str(report), *(word for pid in processes for word in ("-p", str(pid)))]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)


def file_operations(peers: Sequence[Running], seconds: float, place: Path) -> dict[str, Figures]:
    """Count the system calls on files of each peer's busier side, all peers at once.

    Nothing without strace, or without the right to use it.
    """
    if shutil.which("strace") is None:
        return {}
    sides = [(peer.name, number, side) for peer in peers for number, side in enumerate(peer.sides)]
    with contextlib.ExitStack() as stack:
        for name, number, side in sides:
            stack.enter_context(_traced(_family(side), place / f"{name}.{number}"))
        start = time.perf_counter()
        time.sleep(seconds)
        elapsed = time.perf_counter() - start
    most: dict[str, float] = {}
    for name, number, _ in sides:
        report = place / f"{name}.{number}"
        if not report.exists():
            return {}
        counts = re.findall(r"^ *(\d+) +(?!total)[a-z]\w*$", report.read_text(), re.MULTILINE)
        most[name] = max(most.get(name, 0.0), sum(map(int, counts)) / elapsed)
    return {name: {"idle file operations of a side [1/s]": rate} for name, rate in most.items()}


def raise_limit_of_descriptors() -> None:
    """Let this process and its children have as many connections as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
