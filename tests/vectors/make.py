"""Write the vectors and section 14 of protocol.md: `python -m tests.vectors.make`."""

import json
from collections.abc import Callable, Iterator

from . import HERE, batches, blocks, document, frames, sealed
from .common import Vector

LAYERS: dict[str, tuple[Callable[[], Iterator[Vector]], str]] = {
    "incarnation": (
        blocks.incarnations,
        "24 bytes, as in birth block and status.",
    ),
    "epoch": (
        blocks.epochs,
        "`hex` is what is hashed: the label and the two incarnations.",
    ),
    "birth": (
        blocks.births,
        "`hex` is what was read of the page at offset 0. `texts`: what is shown to people.",
    ),
    "status": (
        blocks.statuses,
        "`hex` is what was read of a slot. `texts`: what is shown to people.",
    ),
    "frames": (
        frames.frames_all,
        "`hex` is the body of a batch that says to hold `count` frames. `expect` is what the"
        " bytes say. `session` is what the dial side of a new session makes of the last frame, if"
        " it has opened stream 1 and nothing was read before: `taken`, `ignored`, or `protocol`,"
        " the session error.",
    ),
    "open": (
        frames.opens,
        "The payload of OPEN.",
    ),
    "batch": (
        batches.batches,
        "`hex` is what was read at `position` of the ring of `capacity` bytes, by a reader whose"
        " epoch, read position and max batch are `epoch`, `position`, `max_batch`. `next` is the"
        " read position after it.",
    ),
    "sealed": (
        sealed.sealed,
        "Sealed sessions (section 17). `kind` is keys, birth, status or batch; all of them belong"
        " to the sides of `sealed-keys`. `hex` is what was read where a block or batch of `writer`"
        " is due. `tells` is what a side with the key tells of a birth block that it cannot"
        " believe. The rest is as in birth.json, status.json and batch.json.",
    ),
    "transcript": (
        batches.transcripts,
        "All batches of a session of two incarnations, in the order in which they are written;"
        " both sides have the defaults of section 13 but for the capacity.",
    ),
}


def text_of(layer: str) -> str:
    vectors, notes = LAYERS[layer]
    head = json.dumps({"protocol": 1, "layer": layer, "notes": notes})
    lines = ",\n".join(json.dumps(v, separators=(",", ":")) for v in vectors())
    return f'{head[:-1]}, "vectors": [\n{lines}\n]}}\n'


def all_vectors() -> dict[str, Vector]:
    return {v["id"]: v for vectors, _ in LAYERS.values() for v in vectors()}


def main() -> None:
    for layer in LAYERS:
        (HERE / f"{layer}.json").write_text(text_of(layer))
    text = document.PATH.read_text()
    document.PATH.write_text(document.with_examples(text, all_vectors()))


if __name__ == "__main__":
    main()
