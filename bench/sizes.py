"""How much of each work is done, and how often."""

from __future__ import annotations

import attrs


@attrs.frozen
class Sizes:
    """Of a whole run. Bytes and seconds."""

    rounds: int = 5
    stream: int = 2 << 30
    digest: int = 64 << 20
    echoes: int = 3000
    loaded_echoes: int = 500
    connections: int = 500
    bursts: int = 5
    streams: int = 16
    writers: int = 50
    writing: float = 1.0
    idle_streams: int = 1000
    idle: float = 60.0
    starts: int = 15

    # how the cost grows
    crowds: tuple[int, ...] = (1, 4, 16, 64, 256, 1000, 2000)
    rings: tuple[int, ...] = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
    batches: tuple[int, ...] = tuple((64 << 10) * 2**power for power in range(6))
    growth_stream: int = 512 << 20
    messages: tuple[int, ...] = tuple(4**power for power in range(12))
    latencies: tuple[float, ...] = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
    bandwidths: tuple[float, ...] = (0, 100e6, 20e6)
    """Bytes a second; 0: any."""
    simulations: int = 3

    # policies of polling
    messages_replayed: int = 10_000
    replays: int = 5


QUICK = Sizes(
    rounds=1,
    stream=32 << 20,
    digest=8 << 20,
    echoes=200,
    loaded_echoes=50,
    connections=50,
    bursts=1,
    writing=0.3,
    idle_streams=100,
    idle=2.0,
    starts=2,
    crowds=(1, 16),
    rings=(256 << 10, 16 << 20),
    batches=(64 << 10, 2 << 20),
    growth_stream=16 << 20,
    messages=(1, 4096, 1 << 20),
    latencies=(0.0, 0.02),
    bandwidths=(0, 100e6),
    simulations=1,
    messages_replayed=30,
    replays=1,
)
"""Does it work at all?"""
