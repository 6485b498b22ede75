"""The messages on a control socket: one JSON object a line. docs/control.md has all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

VERSION = 1
MAX_LINE = 65536
"""Bytes of a message, with its newline."""
HELLO_TIME = 10.0
"""Seconds that either side waits for the first message of the other one."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict


class Malformed(ValueError):
    """Not a message; `str()` is one sentence for people."""


def encode(message: Mapping[str, object]) -> bytes:
    """Encode a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line. Raises Malformed."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("this is not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("this is not a JSON object")
    return message
