"""`muxfs slurm build-plugin`."""

from __future__ import annotations

import os
import sys

from muxfs.cli.failures import UNAVAILABLE, Failure, exit_code_of
from muxfs.slurm import plugin


def build(output: str, compiler: str | None, include: str | None) -> int:
    """Build it, and say what to do with it. Raises Failure."""
    path = os.path.abspath(output)
    try:
        release = plugin.build(path, compiler, include)
    except plugin.NotBuilt as error:
        raise Failure(str(error), UNAVAILABLE) from error
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}", exit_code_of(error)) from error
    say = f"""\
{path}: for Slurm {release}; it starts {plugin.command()}
Install it at the same path on each submission and compute host (by install or mv, not cp: slurmd
may have it in use), and there add to plugstack.conf:
  optional {path}
New jobs and steps read that; no daemon needs a restart, and running jobs are not affected.
"""
    sys.stdout.write(say)
    return 0
