"""Two doctors in one process, and strategies that fail on purpose."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import hypothesis
import pytest

from muxfs.doctor import pair
from muxfs.doctor.channel import Vanished
from muxfs.doctor.meeting import meet
from muxfs.doctor.pair import Host, Plan
from muxfs.doctor.patience import Halted, Patience
from muxfs.doctor.probes import ProbeDirectory
from muxfs.storage.access import READS, WRITES, ReadAccess, WriteAccess
from muxfs.storage.filesystem import Filesystem

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PATIENCE = 60.0
NETWORK = Filesystem("nfs4", "nas:/home", "/nowhere")
"""What a test says that its directory is, so that a network filesystem's choice is tried."""

ALL_READS: Mapping[str, type[ReadAccess]] = READS
ALL_WRITES: Mapping[str, type[WriteAccess]] = WRITES


@attrs.define
class Doctor:
    """One doctor, in a thread."""

    probes: ProbeDirectory
    plan: Plan
    filesystem: Filesystem = NETWORK
    patience: Patience = attrs.field(factory=Patience)
    steps: list[str] = attrs.field(factory=list)
    results: queue.SimpleQueue[Any] = attrs.field(factory=queue.SimpleQueue)

    def run(self) -> None:
        result: Any
        try:
            result = self._work()
        except (Vanished, Halted, OSError) as error:
            result = error
        self.probes.clean_up()
        self.results.put(result)

    def _work(self) -> dict[str, Any]:
        path = self.probes.path
        meeting = meet(self.probes, self.patience, PATIENCE, lambda: None)
        here = Host.here(path, self.filesystem)
        return pair.examine_together(
            meeting, self.probes, self.filesystem, here, self.plan, self.patience, self._tell
        )

    def _tell(self, step: str, done: float) -> None:
        assert 0 <= done <= 1
        self.steps.append(step)

    def working(self) -> None:
        """Wait until the pair has met."""
        for _ in range(int(PATIENCE * 100)):
            if self.steps:
                return
            assert self.results.empty(), self.results.get()
            time.sleep(0.01)
        raise AssertionError("they did not meet")

    def start(self) -> None:
        threading.Thread(target=self.run, daemon=True).start()

    def result(self) -> dict[str, Any]:
        result = self.results.get(timeout=PATIENCE)
        if isinstance(result, Exception):
            raise result
        return dict(result)


Start: TypeAlias = Callable[..., list[Doctor]]
"""Starts a doctor for each plan."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory in memory, where a busy disk is in nobody's way."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="muxfs-doctor-") as name:
        yield Path(name)


@pytest.fixture
def doctors(place: Path) -> Start:
    """Give a function that starts two of them."""

    def start(*plans: Plan, filesystems: Sequence[Filesystem] = (NETWORK, NETWORK)) -> list[Doctor]:
        found = []
        for plan, filesystem in zip(plans, filesystems, strict=True):
            patience = Patience()
            probes = ProbeDirectory(str(place), patience)
            found.append(Doctor(probes, plan, filesystem, patience))
        for doctor in found:
            doctor.start()
        return found

    return start
