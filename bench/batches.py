"""muxfs with batches of at most so many bytes; it has no option for that: the benchmark's only.

python -m bench.batches BYTES listen|dial ...
"""

from __future__ import annotations

import sys

import attrs

from muxfs import cli
from muxfs.config import SessionConfig
from muxfs.core.engine import EngineConfig


def bound(most: int) -> None:
    """Let all sessions of this process write, and take, batches of at most so many bytes."""
    as_it_is = SessionConfig.engine_config

    def bounded(self: SessionConfig) -> EngineConfig:
        return attrs.evolve(as_it_is(self), max_batch=most)

    SessionConfig.engine_config = bounded  # type: ignore[method-assign]


if __name__ == "__main__":
    bound(int(sys.argv.pop(1)))
    cli.main()
