"""Runs in simulated time, side by side: to their own clocks busy cores do not matter."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run_all(
    simulate: Callable[[Job], Outcome], jobs: Sequence[Job], progress: Callable[[str], None]
) -> list[Outcome]:
    """Run a simulation for each job, on all cores; return the outcomes in the jobs' order.

    `simulate` is a module's function, and a job tells in words what it is.
    """
    outcomes = []
    # Not by fork: all would have the same random numbers.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        for number, (job, outcome) in enumerate(
            zip(jobs, processes.map(simulate, jobs), strict=True)
        ):
            progress(f"simulated: {job} ({number + 1} of {len(jobs)})")
            outcomes.append(outcome)
    return outcomes
