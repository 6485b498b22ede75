"""The key that a command was given, and what it shows of sealed files. Trio-free."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from muxfs.cli.arguments import KEY_VARIABLE
from muxfs.cli.failures import USAGE, Failure
from muxfs.cli.patience import Answers
from muxfs.core import wire
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks, SealedBlocks, Strangeness, clear_birth
from muxfs.core.wire import ItemType
from muxfs.errors import UnusableKey
from muxfs.sealing.files import load_key
from muxfs.sealing.key import Key, make_sealer, session_name


def key(
    path: str | None, environ: Mapping[str, str] = os.environ, limit: float = math.inf
) -> Key | None:
    """Read the key file that was asked for; None if none was. Raises Failure.

    limit: seconds to wait for its file server; an end of a tunnel waits as long as it takes.
    """
    source = "--key-file"
    if path is None:
        source, path = KEY_VARIABLE, environ.get(KEY_VARIABLE)
    if path is None:
        return None
    if not path:  # a script whose own variable is empty: not to go on without a key
        raise Failure(f"{source} is given, but names no file", USAGE)
    name = path
    try:
        return Answers(limit).of(name, lambda: load_key(name))
    except UnusableKey as error:
        raise Failure(str(error), error.exit_code) from error


def blocks_for(key: Key | None, session_path: str) -> Blocks:
    """Return what opens the blocks of that session's files. Raises UnusableKey."""
    if key is None:
        return CHECKSUM_BLOCKS
    return SealedBlocks(make_sealer(key.named(session_name(session_path))))


def remark(page: bytes, blocks: Blocks) -> str:
    """Say what keeps a birth block from being read, or from being believed; "" if nothing."""
    birth = clear_birth(page)
    stranger = blocks.stranger(page)
    if birth is None or stranger is None:
        return ""
    key_id = birth.item(ItemType.KEY)[: wire.KEY_ID_LENGTH].hex()
    match stranger.why:
        case Strangeness.KEY_WANTED:
            return f"sealed with key {key_id}; --key-file shows more"
        case Strangeness.OTHER_KEY:
            return f"sealed with key {key_id}; the key given is {stranger.own}"
        case Strangeness.NO_KEY:
            return "not sealed, so no side with the key believes it"
        case Strangeness.OTHER_NAME:
            return f"names the key given, but was not sealed for {stranger.own} with it"
        case _:
            return stranger.reason
