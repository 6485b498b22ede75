"""`muxfs sbatch`: Slurm's sbatch, with a tunnel that waits for the job and ends with it."""

from __future__ import annotations

import argparse

from muxfs.cli import wrapping

HELP = wrapping.help_of(
    "sbatch",
    """\
The job starts its side before the script begins. This host waits in the background,
also after you have logged out, until the job has ended; muxfs status tells of it.
A line `#SBATCH --tunnel=SPEC` in the script does the same as the option.
""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: Slurm parses."""


def pass_on(words: list[str]) -> int:
    """Run Slurm's command with the words. Raises Failure."""
    return wrapping.pass_on("sbatch", words)
