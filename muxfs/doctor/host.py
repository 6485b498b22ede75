"""One host: whether its filesystem is one that muxfs can work on.

Whether another host sees what this one writes cannot be known from here: see `pair`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from muxfs.doctor import judges, locks, space
from muxfs.doctor.candidates import reads_beside, writes_beside
from muxfs.doctor.findings import Finding
from muxfs.doctor.judges import Timing
from muxfs.doctor.patience import Patience
from muxfs.doctor.probes import OwnProbe, ProbeDirectory, surest
from muxfs.doctor.statistics import Summary
from muxfs.storage.access import READS, WRITES, Access, DirectRead
from muxfs.storage.filesystem import Filesystem, default_access

PAGE: Final = 4096
SECONDS_EACH: Final = 0.4
"""Of timing one strategy, if so much is needed for TIMES calls."""
TIMES: Final = 100
_PAGE_OF_ZEROS: Final = bytes(PAGE)


def survey(path: str, filesystem: Filesystem, ring: int) -> Iterator[Finding]:
    """Look at the existing directory `path` without writing; mailboxes will have `ring` bytes."""
    yield judges.judge_filesystem(filesystem, default_access(filesystem).name)
    yield judges.judge_options(filesystem)
    yield judges.judge_space(space.look(path), ring)


def examine(path: str, filesystem: Filesystem, ring: int, patience: Patience) -> Iterator[Finding]:
    """Write and read there; each finding as soon as it is known. Raises Halted.

    Leaves nothing behind. Blocks as long as the server does.
    """
    try:
        probes = ProbeDirectory(path, patience)
    except OSError as error:
        yield judges.judge_refusal(error)
        return
    try:
        start = time.monotonic()
        try:
            whole = probes.create(probes.name("ring"), surest(), ring)
        except OSError as error:
            yield judges.judge_refusal(error)
            return
        yield judges.judge_filling(ring, time.monotonic() - start)
        probes.sweep(whole)
        yield from _time_all(probes, default_access(filesystem), patience)
        yield _look_at_locks(whole)
        probes.remove(whole)
    finally:
        probes.clean_up()


def _time_all(probes: ProbeDirectory, chosen: Access, patience: Patience) -> Iterator[Finding]:
    writes: dict[str, Timing] = {}
    for name in writes_beside(chosen.write.name):
        access = Access(DirectRead(), WRITES[name]())
        writes[name] = _timed(probes, access, _write_page, patience)
    yield judges.judge_writing(writes, chosen.write.name)
    reads: dict[str, Timing] = {}
    direct = False

    def read(probe: OwnProbe) -> None:
        nonlocal direct
        probe.read(0, PAGE)
        if probe.file.access.read.name == DirectRead.name:
            direct = probe.is_direct

    for name in reads_beside(chosen.read.name):
        access = Access(READS[name](), surest().write)
        reads[name] = _timed(probes, access, read, patience)
    yield judges.judge_reading(reads, chosen.read.name, direct=direct)


def _write_page(probe: OwnProbe) -> None:
    probe.write(0, _PAGE_OF_ZEROS)


def _timed(
    probes: ProbeDirectory, access: Access, call: Callable[[OwnProbe], None], patience: Patience
) -> Timing:
    """Time calls on a file of their own; or return why they cannot be made."""
    samples: list[float] = []
    try:
        probe = probes.create(probes.name(access.name), access, PAGE)
        try:
            end = time.monotonic() + SECONDS_EACH
            while len(samples) < TIMES and (start := time.monotonic()) < end:
                patience.check()
                call(probe)
                samples.append(time.monotonic() - start)
        finally:
            probes.remove(probe)
    except OSError as error:
        return error
    return Summary.of(samples) or OSError("no time")


def _look_at_locks(probe: OwnProbe) -> Finding:
    with probe.file.writing as descriptor:
        answer = locks.try_lock(descriptor)
        second = None
        if answer is locks.Answer.GRANTED:
            second = locks.try_from_another_process(probe.path)
            locks.unlock(descriptor)
        return judges.judge_locks(answer, second)
