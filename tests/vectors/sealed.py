"""Vectors of sealed sessions (section 17)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import encoder as e
from . import number
from .batches import ANSWER, HELLO
from .common import DIAL, IGNORED, LISTEN, NOT_YET, Vector, flipped, item_list, patched, vector
from .frames import split
from .sealer import SPAN, Session, Side

SECRET = bytes(range(32))
NAME = b"job42/0"
DIAL_SHARE, LISTEN_SHARE = bytes(range(64, 96)), bytes(range(128, 160))
PEOPLE = ((e.SOFTWARE, b"muxfs 0.1.0"), (e.HOST, b"node17"))
REASON = ((e.REASON, b"interrupted"),)
SIDE_NAMES = {e.DIAL: "dial", e.LISTEN: "listen"}


def side(role: int, secret: bytes = SECRET, name: bytes = NAME) -> Side:
    its = {e.DIAL: (DIAL, DIAL_SHARE), e.LISTEN: (LISTEN, LISTEN_SHARE)}[role]
    return Side(secret, name, role, *its)


ONE, OTHER = side(e.DIAL), side(e.LISTEN)
BIRTH, LISTEN_BIRTH = ONE.birth(PEOPLE), OTHER.birth()
SESSION = Session(ONE, OTHER, BIRTH, LISTEN_BIRTH)


def sealed() -> Iterator[Vector]:
    yield keys()
    yield from births()
    yield from statuses()
    yield from batches()


def keys() -> Vector:
    expect = {
        "key_id": ONE.key_id.hex(),
        "dial_share": ONE.public.hex(),
        "listen_share": OTHER.public.hex(),
        "dial_control": ONE.control.hex(),
        "listen_control": OTHER.control.hex(),
        "salt": SESSION.salt.hex(),
        "secret": SESSION.secret.hex(),
        "dial_batch": SESSION.key(e.DIAL, 0).hex(),
        "dial_batch_next_span": SESSION.key(e.DIAL, SPAN).hex(),
        "listen_batch": SESSION.key(e.LISTEN, 0).hex(),
    }
    given = {
        "kind": "keys",
        "session": NAME.decode(),
        "dial": DIAL.hex(),
        "listen": LISTEN.hex(),
        "dial_private": DIAL_SHARE.hex(),
        "listen_private": LISTEN_SHARE.hex(),
    }
    return vector("sealed-keys", "`hex` is the key that both have", SECRET, expect, **given)


def birth(
    name: str, comment: str, data: bytes, tells: str = "", *, writer: int = e.DIAL, **expect: Any
) -> Vector:
    more = {"kind": "birth", "writer": SIDE_NAMES[writer], "tells": tells}
    return vector(f"sealed-birth{name}", comment, data, expect or NOT_YET, **more)


def births() -> Iterator[Vector]:
    yield birth("", "the example", BIRTH, items=item_list(PEOPLE), share=ONE.public.hex())
    yield birth(
        "-listen",
        "the other side's, without further items",
        LISTEN_BIRTH,
        writer=e.LISTEN,
        items=[],
        share=OTHER.public.hex(),
    )
    yield birth("-as-the-other-side", "the same where the other side's is due", LISTEN_BIRTH)
    other_key = side(e.DIAL, secret=bytes(32)).birth(PEOPLE)
    yield birth("-other-key", "of somebody with another key", other_key, "OTHER_KEY")
    other_name = side(e.DIAL, name=b"job43/0").birth(PEOPLE)
    yield birth("-other-name", "of another tunnel with the same key", other_name, "OTHER_NAME")
    plain = e.birth(generation=7, nonce=DIAL[8:], with_items=PEOPLE)
    yield birth("-plain", "of somebody without a key", plain, "NO_KEY")
    offered = ONE.birth(PEOPLE, required=0)
    yield birth("-not-required", "sealed, but it does not say so", offered, "NO_KEY")
    for what, at in (("role", 10), ("generation", 23), ("max-batch", 58), ("heartbeat", 90)):
        forged = e.with_checksum(flipped(BIRTH, at))
        comment = "a field was changed, the checksum too"
        yield birth(f"-forged-{what}", comment, forged, "OTHER_NAME")
    forged = e.with_checksum(flipped(BIRTH, len(BIRTH) - 9))
    yield birth("-forged-tag", "the tag was changed, the checksum too", forged, "OTHER_NAME")
    forged = e.with_checksum(flipped(BIRTH, 110))
    yield birth("-forged-share", "the share was changed, the checksum too", forged, "OTHER_NAME")
    yield birth("-damaged", "a bit was lost", flipped(BIRTH, 140))


def status(
    name: str, comment: str, data: bytes, *, writer: int = e.LISTEN, **expect: Any
) -> Vector:
    more = {"kind": "status", "writer": SIDE_NAMES[writer]}
    return vector(f"sealed-status{name}", comment, data, expect or IGNORED, **more)


def statuses() -> Iterator[Vector]:
    fields: dict[str, Any] = {"echo": DIAL, "written": 1344, "read": 192}
    common = {"own": LISTEN.hex(), "echo": DIAL.hex(), "written": 1344, "read": 192}
    first = OTHER.status(beat=12, **fields)
    yield status("", "the example", first, **common, beat=12, closed=False, code=0, items=[])
    last = OTHER.status(REASON, beat=13, flags=e.CLOSED, code=16, **fields)
    yield status(
        "-closed",
        "the last one",
        last,
        **common,
        beat=13,
        closed=True,
        code=16,
        items=item_list(REASON),
    )
    yield status("-as-the-other-side", "as if it were the other side's", first, writer=e.DIAL)
    plain = e.status(own=LISTEN, beat=12, **fields)
    yield status("-plain", "of somebody without a key", plain)
    stripped = e.with_checksum(patched(plain, 8, b"\x00\x02"))
    yield status("-without-tag", "flagged as sealed, but without a tag", stripped)
    unsealed = e.with_checksum(patched(first, 8, b"\x00\x00"))
    yield status("-flag-removed", "the flag was removed, the checksum made right", unsealed)
    for what, at in (("closed", 9), ("echo", 60), ("beat", 71), ("read", 87), ("tag", 100)):
        forged = e.with_checksum(flipped(first, at))
        yield status(f"-forged-{what}", "a field was changed, the checksum too", forged)
    other_key = side(e.LISTEN, secret=bytes(32)).status(beat=12, **fields)
    yield status("-other-key", "of somebody with another key", other_key)
    other_name = side(e.LISTEN, name=b"job42/1").status(beat=12, **fields)
    yield status("-other-name", "of another session with the same key", other_name)
    yield status("-damaged", "a bit was lost", flipped(first, 100))


def batch(
    name: str,
    comment: str,
    role: int,
    frames: Iterable[bytes] = (),
    change: Callable[[bytes], bytes] | None = None,
    *,
    position: int,
    flags: int = 0,
    ack: int = 0,
) -> Vector:
    parts = list(frames)
    whole = SESSION.batch(role, parts, position=position, flags=flags, ack=ack)
    follows = position + len(e.padded(whole))
    if flags & e.PAD:
        follows = (position // 262144 + 1) * 262144
    expect = {
        "ack": number(ack),
        "pad": bool(flags & e.PAD),
        "notice": bool(flags & e.NOTICE),
        "next": number(follows),
        "frames": split(parts),
    }
    return vector(
        f"sealed-batch{name}",
        comment,
        e.padded(change(whole) if change else whole),
        NOT_YET if change else expect,
        kind="batch",
        writer=SIDE_NAMES[role],
        epoch=f"0x{SESSION.epochs[role]:016x}",
        position=number(position),
        capacity=262144,
    )


def batches() -> Iterator[Vector]:
    yield batch("", "the example: a client connects and asks", e.LISTEN, HELLO, position=0)
    yield batch("-answer", "the answer", e.DIAL, ANSWER, position=0, ack=192)
    yield batch("-ack", "no frames: an acknowledgement", e.LISTEN, position=192, ack=192)
    yield batch("-notice", "look at the status", e.LISTEN, position=192, flags=e.NOTICE)
    pad: dict[str, Any] = {"position": 262016, "ack": 192, "flags": e.PAD}
    yield batch("-pad", "the rest of the ring is left out", e.DIAL, **pad)
    yield batch("-last-of-span", "the last lap of a key", e.DIAL, HELLO, position=SPAN - 262144)
    yield batch("-next-span", "the first position of the next key", e.DIAL, HELLO, position=SPAN)
    yield batch("-late", "a large position", e.DIAL, HELLO, position=2**62, ack=2**62)
    for what, at in (("flags", 2), ("ack", 31), ("count", 35), ("reserved", 39), ("body", 50)):

        def change(data: bytes, at: int = at) -> bytes:
            return flipped(data, at)

        comment = f"a bit of the {what} was changed"
        yield batch(f"-forged-{what}", comment, e.DIAL, ANSWER, change, position=0)
    for what, role, position in (
        ("other-direction", e.LISTEN, 0),
        ("other-position", e.DIAL, 64),
        ("other-span", e.DIAL, SPAN),
    ):
        other = SESSION.batch(role, ANSWER, position=position)[40:]
        yield batch(
            f"-{what}",
            "a genuine body under a header that it does not belong to",
            e.DIAL,
            ANSWER,
            lambda data, other=other: data[:40] + other,  # type: ignore[misc]
            position=0,
        )
    plain = e.batch(ANSWER, epoch=SESSION.epochs[e.DIAL], position=0)
    yield batch("-plain", "not sealed", e.DIAL, ANSWER, lambda _: plain, position=0)
    yield batch("-cut", "without its last byte", e.DIAL, ANSWER, lambda d: d[:-1], position=0)


EXAMPLES = f"""\
The key is the bytes 00 to 1f, the name `{NAME.decode()}`, the private share of the dial side
is the bytes 40 to 5f, that of the listen side 80 to 9f. So the key id is `{ONE.key_id.hex()}`, and

    control key of the dial side     {ONE.control.hex()}
    control key of the listen side   {OTHER.control.hex()}
    salt                             {SESSION.salt.hex()}
    secret                           {SESSION.secret.hex()}
    batch key, dial side, span 0     {SESSION.key(e.DIAL, 0).hex()}
    batch key, listen side, span 0   {SESSION.key(e.LISTEN, 0).hex()}
"""
