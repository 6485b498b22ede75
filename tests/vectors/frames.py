"""Vectors of frames (sections 6 and 9)."""

from collections.abc import Iterable, Iterator

from . import encoder as e
from . import expand, number, squeeze
from .common import FOUR_GIB, MAX_SEQUENCE, PROTOCOL, Vector, truncations, vector


def split(frames: Iterable[bytes]) -> list[Vector]:
    """What whole frames hold, read back by offsets."""
    return [
        {
            "type": f[0],
            "flags": f[1],
            "code": int.from_bytes(f[2:4], "big"),
            "stream": number(int.from_bytes(f[4:8], "big")),
            "sequence": number(int.from_bytes(f[8:16], "big")),
            "payload": squeeze(f[20:]),
        }
        for f in frames
    ]


def frames(name: str, comment: str, *parts: bytes, session: str | None = None) -> Vector:
    more = {"session": session} if session else {}
    return vector(
        f"frames-{name}",
        comment,
        b"".join(parts),
        {"frames": split(parts)},
        count=len(parts),
        **more,
    )


# What the session vectors suppose: the reader is the dial side; it has opened
# stream 1, and has read nothing yet.
OURS, THEIRS = 1, 2
OPENED = e.frame(e.OPEN, THEIRS, payload=e.target(b"localhost:8888", b"ada@login1"))
ACCEPTED = e.frame(e.ACCEPT, OURS, payload=b"10.0.0.17:51000")


def data(stream: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    return e.frame(e.DATA, stream, sequence, payload, flags=flags)


def frames_all() -> Iterator[Vector]:
    yield from frames_valid()
    yield from frames_of_streams()
    yield from frames_of_types()
    yield from frames_broken()


def frames_valid() -> Iterator[Vector]:
    taken = "taken"
    yield frames("none", "an empty body", session=taken)
    yield frames("open", "OPEN", OPENED, session=taken)
    yield frames("accept", "ACCEPT of a stream of the reader", ACCEPTED, session=taken)
    yield frames(
        "accept-empty", "ACCEPT without an address", e.frame(e.ACCEPT, OURS), session=taken
    )
    yield frames(
        "accept-longest",
        "256 bytes of address",
        e.frame(e.ACCEPT, OURS, payload=b"a" * 256),
        session=taken,
    )
    yield frames(
        "data", "DATA may follow OPEN at once", OPENED, data(THEIRS, 0, b"hello"), session=taken
    )
    yield frames(
        "data-fin", "DATA with FIN", OPENED, data(THEIRS, 0, b"hello", e.FIN), session=taken
    )
    yield frames(
        "data-empty-fin",
        "a FIN of its own",
        OPENED,
        data(THEIRS, 0, b"hi"),
        data(THEIRS, 2, b"", e.FIN),
        session=taken,
    )
    yield frames(
        "data-flags",
        "unlisted flags are ignored",
        OPENED,
        data(THEIRS, 0, b"x", 0xFE),
        data(THEIRS, 1, b"y", 0xFF),
        session=taken,
    )
    yield frames(
        "data-all-credit",
        "all that the credit allows",
        OPENED,
        data(THEIRS, 0, b"x" * 65536),
        session=taken,
    )
    yield frames("data-back", "DATA of the acceptor", ACCEPTED, data(OURS, 0, b"x"), session=taken)
    yield frames("credit", "CREDIT", ACCEPTED, e.frame(e.CREDIT, OURS, 131072), session=taken)
    yield frames(
        "credit-most", "the largest limit", e.frame(e.CREDIT, OURS, MAX_SEQUENCE), session=taken
    )
    yield frames(
        "credit-lower", "a limit that does not rise", e.frame(e.CREDIT, OURS, 1), session="ignored"
    )
    yield frames(
        "stop", "STOP", ACCEPTED, e.frame(e.STOP, OURS, 0, b"enough", code=7), session=taken
    )
    yield frames(
        "reset",
        "RESET",
        OPENED,
        data(THEIRS, 0, b"hi"),
        e.frame(e.RESET, THEIRS, 2, b"gone", code=8),
        session=taken,
    )
    yield frames(
        "refusal",
        "RESET and STOP instead of ACCEPT",
        e.frame(e.RESET, OURS, 0, b"nothing listens", code=1),
        e.frame(e.STOP, OURS, 0, b"nothing listens", code=1),
        session=taken,
    )
    yield frames(
        "reset-unknown-code",
        "an unknown code is INTERNAL",
        OPENED,
        e.frame(e.RESET, THEIRS, 0, code=999),
        session=taken,
    )
    yield frames(
        "reason-longest",
        "256 bytes of reason",
        OPENED,
        e.frame(e.RESET, THEIRS, 0, b"r" * 256, code=7),
        session=taken,
    )
    yield frames(
        "reason-malformed",
        "a reason that is not UTF-8",
        OPENED,
        e.frame(e.RESET, THEIRS, 0, b"\xff\xc3(", code=7),
        session=taken,
    )
    yield frames("ping", "PING", e.frame(e.PING, 0, payload=b"12345678"), session=taken)
    yield frames("ping-empty", "PING without payload", e.frame(e.PING, 0), session=taken)
    yield frames("ping-longest", "64 bytes", e.frame(e.PING, 0, payload=b"p" * 64), session=taken)
    yield frames("pong", "PONG", e.frame(e.PONG, 0, payload=b"12345678"))
    not_looked_at = e.frame(e.PING, 0, 2**64 - 1, b"x", flags=255, code=65535)
    yield frames(
        "zero-fields", "fields said to be 0 are not looked at", not_looked_at, session=taken
    )


def frames_of_streams() -> Iterator[Vector]:
    """Frames that are whole and break section 9."""
    never = "a stream that was never opened"
    yield frames(
        "open-other-parity",
        "an id of the reader",
        e.frame(e.OPEN, 3, payload=e.target(b"a:1")),
        session=PROTOCOL,
    )
    yield frames("open-twice", "an id that does not grow", OPENED, OPENED, session=PROTOCOL)
    yield frames(
        "open-falls",
        "an id that falls",
        e.frame(e.OPEN, 4, payload=e.target(b"a:1")),
        OPENED,
        session=PROTOCOL,
    )
    yield frames(
        "accept-own", "ACCEPT by the opener", OPENED, e.frame(e.ACCEPT, THEIRS), session=PROTOCOL
    )
    yield frames("accept-never", never, e.frame(e.ACCEPT, 3), session=PROTOCOL)
    yield frames("data-never", never, data(4, 0, b"x"), session=PROTOCOL)
    yield frames("data-gap", "a byte is missing", OPENED, data(THEIRS, 1, b"x"), session=PROTOCOL)
    yield frames(
        "data-again",
        "bytes come twice",
        OPENED,
        data(THEIRS, 0, b"xy"),
        data(THEIRS, 1, b"y"),
        session=PROTOCOL,
    )
    yield frames(
        "data-far",
        "the last sequence number",
        OPENED,
        data(THEIRS, 2**64 - 1, b"xy"),
        session=PROTOCOL,
    )
    yield frames(
        "data-over-credit",
        "one byte beyond the credit",
        OPENED,
        data(THEIRS, 0, b"x" * 65537),
        session=PROTOCOL,
    )
    yield frames(
        "data-over-credit-later",
        "one byte beyond the credit",
        OPENED,
        data(THEIRS, 0, b"x" * 65536),
        data(THEIRS, 65536, b"x"),
        session=PROTOCOL,
    )
    yield frames(
        "data-after-fin",
        "DATA after FIN",
        OPENED,
        data(THEIRS, 0, b"", e.FIN),
        data(THEIRS, 0, b"x"),
        session=PROTOCOL,
    )
    yield frames(
        "fin-after-fin",
        "FIN twice",
        OPENED,
        data(THEIRS, 0, b"", e.FIN),
        data(THEIRS, 0, b"", e.FIN),
        session=PROTOCOL,
    )
    yield frames(
        "data-after-reset",
        "DATA after RESET",
        OPENED,
        e.frame(e.RESET, THEIRS, code=7),
        data(THEIRS, 0, b"x"),
        session=PROTOCOL,
    )
    yield frames(
        "data-before-accept",
        "the acceptor sends before ACCEPT",
        data(OURS, 0, b"x"),
        session=PROTOCOL,
    )
    yield frames("credit-never", never, e.frame(e.CREDIT, 4, 10), session=PROTOCOL)
    yield frames("stop-never", never, e.frame(e.STOP, 4), session=PROTOCOL)
    yield frames("reset-never", never, e.frame(e.RESET, 4), session=PROTOCOL)


def frames_of_types() -> Iterator[Vector]:
    """Types and lengths that are wrong by themselves (section 6)."""
    for kind in (e.OPEN, e.ACCEPT, e.DATA, e.CREDIT, e.STOP, e.RESET):
        payload = e.target(b"a:1") if kind == e.OPEN else b""
        yield frames(
            f"type-{kind}-on-session",
            "on stream 0",
            e.frame(kind, 0, payload=payload),
            session=PROTOCOL,
        )
    for kind in (e.PING, e.PONG):
        yield frames(
            f"type-{kind}-on-stream", "on a stream", OPENED, e.frame(kind, THEIRS), session=PROTOCOL
        )
        yield frames(
            f"type-{kind}-too-long",
            "65 bytes",
            e.frame(kind, 0, payload=b"p" * 65),
            session=PROTOCOL,
        )
    yield frames("type-0", "zeros are no frame", bytes(20), session=PROTOCOL)
    for kind in (9, 0x40, 0x7F):
        yield frames(f"type-{kind}", "unknown below 0x80", e.frame(kind, 0), session=PROTOCOL)
    for kind in (0x80, 0x81, 0xFF):
        yield frames(
            f"type-{kind}", "unknown from 0x80", e.frame(kind, 77, 5, b"?" * 100), session="ignored"
        )
    yield frames(
        "type-128-and-ping",
        "the frame after an ignored one counts",
        e.frame(0x80, 0, 0, b"?"),
        e.frame(e.PING, 0),
        session="taken",
    )
    yield frames(
        "accept-too-long",
        "257 bytes of address",
        e.frame(e.ACCEPT, OURS, payload=b"a" * 257),
        session=PROTOCOL,
    )
    yield frames(
        "credit-payload",
        "CREDIT has no payload",
        e.frame(e.CREDIT, OURS, 131072, b"x"),
        session=PROTOCOL,
    )
    for kind in (e.STOP, e.RESET):
        yield frames(
            f"type-{kind}-too-long",
            "257 bytes of reason",
            OPENED,
            e.frame(kind, THEIRS, 0, b"r" * 257, code=7),
            session=PROTOCOL,
        )
    for item in opens():
        if "error" in item:
            payload = expand(item["hex"])
            yield frames(
                item["id"],
                item["comment"],
                e.frame(e.OPEN, THEIRS, payload=payload),
                session=PROTOCOL,
            )


def frames_broken() -> Iterator[Vector]:
    """Frames that do not fill the body, or are not as many as the header says."""
    body = OPENED + data(THEIRS, 0, b"hello", e.FIN)
    for count in (0, 1, 3, FOUR_GIB):
        yield vector(f"frames-count-{count}", "2 frames", body, PROTOCOL, count=count)
    yield vector("frames-count-none", "a body without frames", b"\x00", PROTOCOL, count=0)
    yield vector("frames-count-empty", "a frame without a body", b"", PROTOCOL, count=1)
    for length in (6, FOUR_GIB):
        long = data(THEIRS, 0, b"", 0)[:16] + length.to_bytes(4, "big") + b"hello"
        yield vector(
            f"frames-length-{length}",
            "a payload longer than its batch",
            OPENED + long,
            PROTOCOL,
            count=2,
        )
    short = data(THEIRS, 0, b"")[:16] + (4).to_bytes(4, "big") + b"hello"
    yield vector(
        "frames-length-short", "a byte after the last frame", OPENED + short, PROTOCOL, count=2
    )
    yield from truncations("frames", data(THEIRS, 0, b"hello", e.FIN), PROTOCOL, count=1)


def opens() -> Iterator[Vector]:
    def good(name: str, comment: str, target: bytes, originator: bytes = b"") -> Vector:
        texts = {"target": target, "originator": originator}
        expect = {key: value.decode("utf-8", "replace") for key, value in texts.items()}
        more = {"canonical": False} if "\ufffd" in expect["target"] else {}
        return vector(f"open-{name}", comment, e.target(target, originator), expect, **more)

    yield good("both", "target and originator", b"localhost:8888", b"ada@login1")
    yield good("target", "no originator", b"[2001:db8::17]:8888")
    yield good("utf-8", "texts are UTF-8", "k\u00f6ln:80".encode(), "\u2603".encode())
    yield good("longest", "both as long as may be", b"t" * 1024, b"o" * 256)
    yield good(
        "malformed",
        "malformed UTF-8 is replaced",
        b"a\xff:1",
        b"\xc3(",
    )
    yield vector("open-target-too-long", "1025 bytes", e.target(b"t" * 1025), PROTOCOL)
    yield vector("open-originator-too-long", "257 bytes", e.target(b"t", b"o" * 257), PROTOCOL)
    yield vector(
        "open-longer", "a byte after the texts", e.target(b"a:1", b"b") + b"\x00", PROTOCOL
    )
    yield vector(
        "open-much-longer",
        "64 KiB after the texts",
        e.target(b"a:1", b"b") + bytes(65536),
        PROTOCOL,
    )
    yield vector("open-target-over", "a target longer than the payload", b"\x00\x08abc", PROTOCOL)
    yield vector("open-target-64k", "a target of 64 KiB", b"\xff\xffabc", PROTOCOL)
    yield vector(
        "open-originator-over",
        "an originator longer than the payload",
        b"\x00\x01a\x00\x02b",
        PROTOCOL,
    )
    yield from truncations("open", e.target(b"a:1", b"b"), PROTOCOL)
