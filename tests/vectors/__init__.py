"""Test vectors of the protocol; they are data, for implementations in any language.

Each `*.json` is `{"layer", "notes", "vectors": [...]}`, one vector a line:

* `id`, `comment`;
* `hex`: the input. Blanks separate its parts; `xx*n` is the byte xx n times;
* `expect`: what it decodes to, or `error`: what a reader makes of it, in the
  words of protocol.md, section 12 (`not-there-yet`, `ignored`, `protocol`,
  `version`);
* `canonical`: false if an encoder of this version would not write this;
* what else the layer needs; the file's `notes` say it.

Bytes in `expect` are written as in `hex`; integers that a double cannot hold
are strings, "0x...".
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

_RUN = re.compile(rb"(.)\1{31,}", re.DOTALL)


def squeeze(data: bytes) -> str:
    parts = []
    at = 0
    for run in _RUN.finditer(data):
        parts += [data[at : run.start()].hex(), f"{run[1].hex()}*{len(run[0])}"]
        at = run.end()
    parts.append(data[at:].hex())
    return " ".join(filter(None, parts))


def expand(text: str) -> bytes:
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(data) * int(count or 1) for data, _, count in parts)


def number(value: int) -> int | str:
    return value if value < 1 << 53 else hex(value)


def integer(value: int | str) -> int:
    return int(value, 0) if isinstance(value, str) else value


def load(layer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / f"{layer}.json").read_text())["vectors"]
    return found
