"""`muxfs srun`: Slurm's srun, with ports that are open for the life of its step."""

from __future__ import annotations

import argparse

from muxfs.cli import wrapping

HELP = wrapping.help_of(
    "srun",
    """\
The ports are open for the life of the step.
""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: Slurm parses."""


def pass_on(words: list[str]) -> int:
    """Run Slurm's command with the words. Raises Failure."""
    return wrapping.pass_on("srun", words)
