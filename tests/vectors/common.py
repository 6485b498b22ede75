"""What the makers of vectors share."""

from collections.abc import Iterator
from typing import Any

from . import encoder as e
from . import squeeze

Vector = dict[str, Any]

MAX_SEQUENCE = 2**63 - 1
FOUR_GIB = 2**32 - 1
CAPACITY = 262144
MAX_BATCH = 65536

DIAL = e.incarnation(7, bytes.fromhex("d1a1 0001 0203 0405 0607 0809 0a0b 0c0d"))
LISTEN = e.incarnation(4, bytes.fromhex("115e 7e40 4142 4344 4546 4748 494a 4b4c"))
EPOCH = e.epoch(DIAL, LISTEN)
EPOCH_OF_LISTEN = e.epoch_of_listen(EPOCH)

NOT_YET, IGNORED, PROTOCOL, VERSION = "not-there-yet", "ignored", "protocol", "version"


def vector(name: str, comment: str, data: bytes, outcome: Any, **more: Any) -> Vector:
    kind = "error" if isinstance(outcome, str) else "expect"
    return {"id": name, "comment": comment, "hex": squeeze(data), kind: outcome, **more}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def truncations(layer: str, data: bytes, error: str, **more: Any) -> Iterator[Vector]:
    for length in range(len(data)):
        name = f"{layer}-truncated-{length}"
        yield vector(name, f"the first {length} bytes only", data[:length], error, **more)


def item_list(pairs: e.Items) -> list[list[Any]]:
    return [[kind, squeeze(value)] for kind, value in pairs]
