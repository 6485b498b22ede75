"""`muxfs salloc`: Slurm's salloc, with a tunnel for the life of the allocation."""

from __future__ import annotations

import argparse

from muxfs.cli import wrapping

HELP = wrapping.help_of(
    "salloc",
    """\
The ports are open until salloc ends.
""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: Slurm parses."""


def pass_on(words: list[str]) -> int:
    """Run Slurm's command with the words. Raises Failure."""
    return wrapping.pass_on("salloc", words)
