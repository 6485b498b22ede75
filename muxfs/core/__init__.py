"""The sans-IO protocol core: bytes and times in, bytes and events out.

Nothing below this package opens a file, reads a clock, draws a random number
or knows of trio; `tests/test_architecture.py` holds it to that. The bytes are
specified in `protocol.md`.
"""
