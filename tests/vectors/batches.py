"""Vectors of batches (section 5), and transcripts of whole sessions."""

from collections.abc import Iterable, Iterator
from typing import Any

from . import encoder as e
from . import number, squeeze
from .common import (
    CAPACITY,
    DIAL,
    EPOCH,
    EPOCH_OF_LISTEN,
    FOUR_GIB,
    LISTEN,
    MAX_BATCH,
    MAX_SEQUENCE,
    NOT_YET,
    PROTOCOL,
    Vector,
    flipped,
    truncations,
    vector,
)
from .frames import OPENED, data, split

PLACE: dict[str, Any] = {"epoch": EPOCH, "position": 1344}
AFTER_HELLO: dict[str, Any] = {"epoch": EPOCH_OF_LISTEN, "position": 192}
NOT_CANONICAL = {"canonical": False}
HELLO = (OPENED, data(2, 0, b"GET / HTTP/1.0\r\n\r\n", e.FIN))
ANSWER = (
    e.frame(e.ACCEPT, 2, payload=b"[::1]:52814"),
    data(2, 0, b"HTTP/1.0 200 OK\r\n\r\nhi\n"),
)
WHY = b"nothing is listening there"
REFUSAL = (e.frame(e.RESET, 4, 0, WHY, code=1), e.frame(e.STOP, 4, 0, WHY, code=1))
CONTROL = (e.frame(e.CREDIT, 6, 98304), *REFUSAL)


def batch(
    name: str,
    comment: str,
    parts: Iterable[bytes] = (),
    error: str | None = None,
    *,
    at: dict[str, Any] = PLACE,
    capacity: int = CAPACITY,
    max_batch: int = MAX_BATCH,
    trim: int = 0,
    after: bytes | None = None,
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Vector:
    """`at` is what the reader waits for; `given` may say otherwise."""
    parts = list(parts)
    whole = e.batch(parts, **{**at, **given})
    seen = (e.padded(whole) if after is None else whole + after)[: -trim or None]
    place = {
        "epoch": f"0x{at['epoch']:016x}",
        "position": number(at["position"]),
        "capacity": capacity,
        "max_batch": max_batch,
    }
    pad = bool(given.get("flags", 0) & e.PAD)
    follows = at["position"] + len(e.padded(whole))
    if pad:
        follows = (at["position"] // capacity + 1) * capacity
    expect = {
        "ack": number(given.get("ack", 0)),
        "pad": pad,
        "notice": bool(given.get("flags", 0) & e.NOTICE),
        "next": number(follows),
        "frames": split(parts),
    }
    return vector(name, comment, seen, error or expect, **place, **(more or {}))


def batches() -> Iterator[Vector]:
    yield from batches_valid()
    yield from batches_at_ring_end()
    yield from batches_not_there()
    yield from batches_wrong()


def batches_valid() -> Iterator[Vector]:
    yield batch(
        "batch-open-data",
        "a client connects and asks",
        HELLO,
        at={"epoch": EPOCH_OF_LISTEN, "position": 0},
        ack=0,
    )
    yield batch("batch-answer", "the answer", ANSWER, at={"epoch": EPOCH, "position": 0}, ack=192)
    yield batch(
        "batch-control",
        "credit, and a refused stream: RESET and STOP",
        CONTROL,
        at={"epoch": EPOCH, "position": 192},
        ack=33280,
    )
    yield batch("batch-ack", "no frames: an acknowledgement", at=AFTER_HELLO, ack=192)
    yield batch(
        "batch-pad",
        "the rest of the ring is left out",
        at={"epoch": EPOCH, "position": 262016},
        ack=192,
        flags=e.PAD,
    )
    yield batch("batch-notice", "look at the status", at=AFTER_HELLO, ack=192, flags=e.NOTICE)
    yield batch("batch-notice-frames", "and frames", HELLO, flags=e.NOTICE, more=NOT_CANONICAL)
    both = e.PAD | e.NOTICE
    yield batch("batch-notice-pad", "and a pad", flags=both, more=NOT_CANONICAL)
    yield batch("batch-empty", "no frames, no ack")
    pings = [e.frame(e.PING, 0, payload=bytes([n])) for n in range(16)]
    yield batch("batch-many", "16 frames", pings, ack=64)
    every = [e.frame(kind, 2, payload=b"x") for kind in range(1, 9)]
    yield batch("batch-types", "each type, as bytes", every)
    yield batch("batch-exact-64", "a batch that needs no zeros after it", [data(2, 0, b"x" * 60)])
    yield batch(
        "batch-late", "a large position", ack=MAX_SEQUENCE, at={"epoch": EPOCH, "position": 2**62}
    )
    yield batch("batch-epoch-0", "an epoch may be any number", at={"epoch": 0, "position": 0})
    yield batch(
        "batch-reserved",
        "the reserved field is not looked at",
        HELLO,
        reserved=FOUR_GIB,
        more=NOT_CANONICAL,
    )
    yield batch(
        "batch-noise-after",
        "what stands after it is not looked at",
        HELLO,
        after=b"\xff" * 64,
        more=NOT_CANONICAL,
    )
    yield batch("batch-max", "the longest", [data(2, 0, b"x" * (MAX_BATCH - 68))])
    yield batch("batch-max-over", "one byte longer", [data(2, 0, b"x" * (MAX_BATCH - 67))], NOT_YET)
    large = [data(2, 0, b"x" * (2**20 - 68))]
    yield batch("batch-1m", "1 MiB", large, max_batch=2**20, capacity=2**24)
    yield batch("batch-1m-not-allowed", "1 MiB, longer than the reader reads", large, NOT_YET)


def batches_at_ring_end() -> Iterator[Vector]:
    end = {"epoch": EPOCH, "position": CAPACITY - 128}
    lap = {"epoch": EPOCH, "position": 5 * CAPACITY - 64}
    yield batch("batch-end", "it ends where the ring ends", [data(2, 0, b"x" * 60)], at=end)
    yield batch(
        "batch-end-lap", "without the zeros after it", at=lap, after=b"", more=NOT_CANONICAL
    )
    yield batch(
        "batch-end-over", "one byte crosses the end", [data(2, 0, b"x" * 61)], NOT_YET, at=end
    )
    yield batch("batch-pad-last", "a pad in the last 64 bytes", at=lap, flags=e.PAD)
    start = {"epoch": EPOCH, "position": 2 * CAPACITY}
    yield batch(
        "batch-pad-first", "a pad at the start: a whole lap is left out", at=start, flags=e.PAD
    )
    yield batch("batch-start", "the first of a lap", HELLO, at=start)


def batches_not_there() -> Iterator[Vector]:
    def wrong(name: str, comment: str, **given: Any) -> Vector:
        return batch(f"batch-{name}", comment, HELLO, NOT_YET, **given)

    yield wrong("epoch", "of another pair", epoch=EPOCH ^ 1)
    yield wrong("direction", "of the other side", epoch=EPOCH_OF_LISTEN)
    yield wrong(
        "epoch-swapped",
        "of another byte order",
        epoch=int.from_bytes(EPOCH.to_bytes(8, "big"), "little"),
    )
    yield wrong(
        "position-lap-before",
        "of the lap before",
        at={"epoch": EPOCH, "position": CAPACITY + 1344},
        position=1344,
    )
    yield wrong("position-lap-after", "of the next lap", position=CAPACITY + 1344)
    yield wrong("position-next", "of the next place", position=1344 + 64)
    yield wrong("position-0", "of the start", position=0)
    yield wrong("magic", "wrong magic", magic=b"MC")
    for units in (0, 5, 7, 255):
        yield wrong(f"header-{units}", "another header length", header_units=units)
    for flags in (4, 5, 6, 0x80, 0xFF):
        yield wrong(
            f"flags-{flags}", "an unknown flag: of a feature that is not in use", flags=flags
        )
    for length in (0, 1, MAX_BATCH, 2**31, FOUR_GIB):
        yield wrong(f"length-{length}", "not the length that was hashed", body_length=length)
    whole = e.padded(e.batch(HELLO, **PLACE))
    place = {
        "epoch": f"0x{EPOCH:016x}",
        "position": 1344,
        "capacity": CAPACITY,
        "max_batch": MAX_BATCH,
    }
    for at in (
        0,
        2,
        3,
        4,
        7,
        8,
        16,
        24,
        32,
        35,
        36,
        40,
        47,
        48,
        60,
        68,
        len(e.batch(HELLO, **PLACE)) - 1,
    ):
        yield vector(
            f"batch-flipped-{at}",
            f"byte {at} is torn: the checksum fails",
            flipped(whole, at),
            NOT_YET,
            **place,
        )
    yield vector(
        "batch-body-zeros",
        "the header arrived, the body did not",
        whole[:48] + bytes(len(whole) - 48),
        NOT_YET,
        **place,
    )
    yield vector(
        "batch-head-zeros",
        "the body arrived, the header did not",
        bytes(48) + whole[48:],
        NOT_YET,
        **place,
    )
    yield vector("batch-zeros", "never written", bytes(4096), NOT_YET, **place)
    yield vector("batch-ones", "erased", b"\xff" * 4096, NOT_YET, **place)
    small = e.batch([e.frame(e.PING, 0, payload=b"p")], **PLACE)
    yield from truncations("batch", small, NOT_YET, **place)


def batches_wrong() -> Iterator[Vector]:
    """A right checksum over a wrong content."""
    for count in (0, 1, 3, FOUR_GIB):
        yield batch(f"batch-count-{count}", "2 frames", HELLO, PROTOCOL, count=count)
    yield batch("batch-count-empty", "a frame without a body", (), PROTOCOL, count=1)
    yield batch("batch-pad-body", "a pad with a body", [e.frame(e.PING, 0)], PROTOCOL, flags=e.PAD)
    yield batch(
        "batch-pad-zeros", "a pad with a body of zeros", [bytes(80)], PROTOCOL, flags=e.PAD, count=0
    )
    yield batch(
        "batch-pad-count", "a pad with frames but no body", (), PROTOCOL, flags=e.PAD, count=1
    )
    over = OPENED[:16] + FOUR_GIB.to_bytes(4, "big") + OPENED[20:]
    yield batch("batch-frame-length", "a frame of 4 GiB", [over], PROTOCOL)
    yield batch(
        "batch-frame-cut", "the last frame is cut", [OPENED, data(2, 0, b"hello")[:-1]], PROTOCOL
    )
    yield batch(
        "batch-frame-rest", "zeros after the last frame", [OPENED, bytes(3)], PROTOCOL, count=1
    )


class Side:
    """A writer that sends each batch at once, to a peer that reads it at once."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        self.position = 0
        self.peer = self

    def say(self, comment: str, *parts: bytes, pad: bool = False) -> Vector:
        data = e.padded(
            e.batch(
                parts, epoch=self.epoch, position=self.position, ack=self.peer.position, flags=pad
            )
        )
        step = {
            "from": self.name,
            "comment": comment,
            "position": self.position,
            "ack": self.peer.position,
        }
        self.position += CAPACITY - self.position % CAPACITY if pad else len(data)
        return {
            **step,
            "pad": pad,
            "next": self.position,
            "hex": squeeze(data),
            "frames": split(parts),
        }


def pair() -> tuple[Side, Side]:
    dial, listen = Side("dial", EPOCH), Side("listen", EPOCH_OF_LISTEN)
    dial.peer, listen.peer = listen, dial
    return dial, listen


def transcripts() -> Iterator[Vector]:
    for name, comment, steps in (
        ("transcript-types", "every type of frame, four streams", conversation()),
        ("transcript-wrap", "over the end of the ring, with a pad", wrap()),
    ):
        yield {
            "id": name,
            "comment": comment,
            "dial": DIAL.hex(),
            "listen": LISTEN.hex(),
            "capacity": CAPACITY,
            "steps": list(steps),
        }


def conversation() -> Iterator[Vector]:
    dial, listen = pair()
    yield listen.say("a client connects and asks; no more is to come", *HELLO)
    yield dial.say("the service answers", *ANSWER)
    yield listen.say("an acknowledgement")
    yield dial.say("the service ends: stream 2 has ended", data(2, 22, b"", e.FIN))
    another = e.frame(e.OPEN, 4, payload=e.target(b"localhost:9"))
    yield listen.say("another client", another, data(4, 0, b"?"), e.frame(e.PING, 0, payload=b"1"))
    yield dial.say("is refused", e.frame(e.PONG, 0, payload=b"1"), *REFUSAL)
    yield listen.say("the answer to STOP: stream 4 has ended", e.frame(e.RESET, 4, 1, WHY, code=1))
    back = e.frame(e.OPEN, 1, payload=e.target(b"license:1900", b"node17"))
    yield dial.say("a stream of the other side", back, data(1, 0, b"hello"))
    yield listen.say(
        "gives credit and sends",
        e.frame(e.ACCEPT, 1),
        e.frame(e.CREDIT, 1, 131072),
        data(1, 0, b"one"),
        data(1, 3, b"two"),
    )
    yield dial.say("the client has enough", e.frame(e.STOP, 1, 3, b"enough", code=7))
    yield listen.say("so this direction ends", e.frame(e.RESET, 1, 6, b"enough", code=7))
    yield dial.say("and the other: stream 1 has ended", data(1, 5, b"!", e.FIN))
    yield listen.say("a type of a later version", e.frame(0x80, 9, 9, b"later", flags=9, code=9))
    yield dial.say("nothing to say but an ack")


def wrap() -> Iterator[Vector]:
    dial, listen = pair()
    ids = (2, 4, 6, 8, 10)
    yield listen.say("5 streams", *(e.frame(e.OPEN, i, payload=e.target(b"a:1")) for i in ids))
    yield dial.say("accepted", *(e.frame(e.ACCEPT, i) for i in ids))
    for i in ids[:3]:
        yield dial.say("all the credit of a stream", data(i, 0, bytes([i]) * 65536))
    yield listen.say("an acknowledgement")
    yield dial.say("the next would cross the end of the ring", pad=True)
    for i in ids[3:]:
        yield dial.say("so it stands at its start", data(i, 0, bytes([i]) * 65536))
    yield listen.say("an acknowledgement of the new lap")
