"""Vectors of incarnations, epochs, birth blocks and status slots (sections 3, 4 and 7)."""

from collections.abc import Iterator
from typing import Any

from . import encoder as e
from . import number, squeeze
from .common import (
    DIAL,
    FOUR_GIB,
    IGNORED,
    LISTEN,
    MAX_SEQUENCE,
    NOT_YET,
    PROTOCOL,
    VERSION,
    Vector,
    flipped,
    item_list,
    patched,
    truncations,
    vector,
)


def incarnations() -> Iterator[Vector]:
    for name, generation, nonce in (
        ("incarnation-dial", 7, DIAL[8:]),
        ("incarnation-listen", 4, LISTEN[8:]),
        ("incarnation-first", 1, bytes(16)),
        ("incarnation-last", MAX_SEQUENCE, b"\xff" * 16),
    ):
        expect = {"generation": number(generation), "nonce": squeeze(nonce)}
        yield vector(name, "generation || nonce", e.incarnation(generation, nonce), expect)
    yield vector(
        "incarnation-none", "zeros: none (the echo of a side that saw nobody)", bytes(24), {}
    )


def epochs() -> Iterator[Vector]:
    first = e.incarnation(1, bytes(16))
    last = e.incarnation(MAX_SEQUENCE, b"\xff" * 16)
    for name, comment, dial, listen in (
        ("epoch", "the pair of the examples", DIAL, LISTEN),
        ("epoch-roles-swapped", "the order is by role", LISTEN, DIAL),
        ("epoch-first", "two first generations", first, first),
        ("epoch-last", "large generations", last, last),
        (
            "epoch-next-generation",
            "another generation, the same nonces",
            DIAL,
            e.incarnation(5, LISTEN[8:]),
        ),
    ):
        data = b"muxfs-epoch-1" + dial + listen
        expect = {
            "dial": dial.hex(),
            "listen": listen.hex(),
            "epoch": f"0x{e.epoch(dial, listen):016x}",
        }
        yield vector(name, comment, data, expect)


BIRTH: dict[str, Any] = {
    "minor": 0,
    "role": e.DIAL,
    "generation": 7,
    "nonce": DIAL[8:],
    "ring_offset": 16384,
    "capacity": 16777216,
    "max_batch": 2097152,
    "max_streams": 4096,
    "initial_credit": 65536,
    "offered": 0,
    "required": 0,
    "heartbeat": 5000,
    "peer_timeout": 60000,
}
PEOPLE = (
    (e.SOFTWARE, b"muxfs 0.1.0"),
    (e.HOST, b"node17"),
    (e.PROCESS, b"5f0c/4026531836/4242/187365"),
    (e.USER, b"ada"),
    (e.STARTED, b"2025-01-31T09:26:53Z"),
    (e.LABEL, b"job 123456"),
)


def birth(
    name: str,
    comment: str,
    error: str | None = None,
    *,
    after: bytes = b"",
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Vector:
    fields = BIRTH | given
    data = e.birth(**fields) + after
    expect: dict[str, Any] = {key: number(fields[key]) for key in BIRTH if key != "nonce"}
    expect |= {"nonce": squeeze(fields["nonce"]), "items": item_list(given.get("with_items", ()))}
    return vector(name, comment, data, error or expect, **(more or {}))


def births() -> Iterator[Vector]:
    yield from births_valid()
    yield from births_at_limits()
    yield from births_not_there()
    for name, tail in broken_items():
        yield birth(f"birth-items-{name}", "the items do not fill the space", PROTOCOL, tail=tail)
    yield from truncations("birth", e.birth(**BIRTH), NOT_YET)


def births_valid() -> Iterator[Vector]:
    yield birth("birth", "the example", with_items=PEOPLE[:2])
    yield birth("birth-minimal", "no items")
    yield birth("birth-listen", "of the other side", role=e.LISTEN, generation=4, nonce=LISTEN[8:])
    yield birth("birth-items", "all items", with_items=PEOPLE)
    unknown = ((0, b""), (7, b"x"), (16, b"of a status"), (0x8000, b"\x00" * 3), (0xFFFF, b""))
    yield birth("birth-items-unknown", "unknown types are skipped", with_items=unknown)
    twice = ((e.HOST, b"a"), (e.HOST, b"b"), (e.LABEL, b""))
    yield birth("birth-items-twice", "one type twice, and an empty text", with_items=twice)
    full = ((e.LABEL, b"x" * 3988),)
    yield birth("birth-items-full", "4096 bytes, the most", with_items=full)
    for name, text, shown in (
        ("ff", b"node\xff", "node\ufffd"),
        ("cut", b"\xc3(", "\ufffd("),
        ("control", b"\x1b[2Jnode", "\x1b[2Jnode"),
        ("umlaut", "k\u00f6ln".encode(), "k\u00f6ln"),
    ):
        more = {"texts": {str(e.HOST): shown}}
        items = ((e.HOST, text),)
        yield birth(f"birth-text-{name}", "text as it may come", with_items=items, more=more)
    page = 4096 - len(e.birth(**BIRTH))
    not_canonical = {"canonical": False}
    yield birth("birth-page", "zeros after it", after=bytes(page), more=not_canonical)
    noise = bytes(i * 37 & 255 for i in range(page))[:300]
    yield birth(
        "birth-noise-after",
        "what stands after it is not looked at",
        after=noise,
        more=not_canonical,
    )


def one(field: str, value: int) -> dict[str, Any]:
    return {field: value}


def births_at_limits() -> Iterator[Vector]:
    for field, good, bad in (
        ("minor", (1, 255), ()),
        ("generation", (1, MAX_SEQUENCE), (0,)),
        ("role", (), (2, 255)),
        ("layout", (), (0, 2, 255)),
        (
            "ring_offset",
            (16384, 20480, 1048576),
            (0, 12288, 16383, 16385, 1048575, 1052672, 2**64 - 4096),
        ),
        (
            "capacity",
            (262144, 266240, 2**30),
            (0, 258048, 262143, 262145, 2**30 + 4096, 2**32, 2**64 - 4096),
        ),
        ("max_batch", (65536, 65537, 16777216), (0, 65535, 16777217, FOUR_GIB)),
        ("max_streams", (0, 1, FOUR_GIB), ()),
        ("initial_credit", (0, 1, MAX_SEQUENCE), (MAX_SEQUENCE + 1, 2**64 - 1)),
        ("offered", (1, 15, 2**64 - 1), ()),
        ("required", (1, 2**64 - 1), ()),
        # the timeout of these is 60000, their heartbeat 5000: at least three beats
        ("heartbeat", (1, 20000), (0, 20001, FOUR_GIB)),
        ("peer_timeout", (0, 15000, FOUR_GIB), (1, 14999)),
    ):
        name = field.replace("_", "-")
        for value in good:
            yield birth(f"birth-{name}-{value}", "within limits", **one(field, value))
        for value in bad:
            yield birth(f"birth-{name}-{value}", "out of its limits", PROTOCOL, **one(field, value))
    for major in (0, 2, 255):
        yield birth(f"birth-major-{major}", "another major version", VERSION, major=major)
    yield birth(
        "birth-major-2-other",
        "the rest need not make sense",
        VERSION,
        major=2,
        role=9,
        capacity=0,
        tail=b"xyz",
    )
    short = e.birth(**BIRTH, major=2)[:12] + (24).to_bytes(4, "big")
    yield vector(
        "birth-major-2-short",
        "a later version may be shorter: 16 bytes and checksum",
        short + e.checksum(short),
        VERSION,
    )


def births_not_there() -> Iterator[Vector]:
    block = e.birth(**BIRTH, with_items=PEOPLE[:2])
    for at in (
        0,
        7,
        8,
        9,
        10,
        11,
        12,
        15,
        16,
        24,
        39,
        40,
        48,
        56,
        60,
        64,
        72,
        80,
        88,
        92,
        96,
        98,
        100,
        len(block) - 8,
        len(block) - 1,
    ):
        yield vector(
            f"birth-flipped-{at}",
            f"byte {at} is torn: the checksum fails",
            flipped(block, at),
            NOT_YET,
        )
    for name, magic in (
        ("text-mode", b"\x89muxfs\n\n"),
        ("seven-bits", b"\x09muxfs\r\n"),
        ("zero", bytes(8)),
    ):
        yield birth(f"birth-magic-{name}", "wrong magic, right checksum", NOT_YET, magic=magic)
    for length in (0, 7, 8, 95, 96, 103, 105, 4096, 4097, FOUR_GIB):
        yield birth(
            f"birth-length-{length}",
            "wrong length, right checksum",
            NOT_YET,
            length=length,
            after=bytes(4096),
        )
    oversize = (e.LABEL, b"x" * 3989)
    yield birth("birth-length-over", "a right block of 4097 bytes", NOT_YET, with_items=(oversize,))
    under = e.birth(**BIRTH)[:95]
    under = patched(under, 12, (103).to_bytes(4, "big"))
    yield vector(
        "birth-length-under",
        "a block shorter than its fields",
        under + e.checksum(under) + bytes(100),
        PROTOCOL,
    )
    yield birth(
        "birth-heartbeat-longest",
        "the longest heartbeat, and never a timeout",
        heartbeat=3600000,
        peer_timeout=0,
    )
    yield birth(
        "birth-heartbeat-too-long",
        "beyond the longest heartbeat",
        PROTOCOL,
        heartbeat=3600001,
        peer_timeout=0,
    )
    yield vector("birth-zeros", "never written", bytes(4096), NOT_YET)
    yield vector("birth-ones", "erased", b"\xff" * 4096, NOT_YET)
    yield vector("birth-status", "a status in the wrong place", e.status(own=DIAL), NOT_YET)


def broken_items() -> Iterator[tuple[str, bytes]]:
    whole = e.items([(e.HOST, b"node17")])
    for length in (1, 2, 3):
        yield f"rest-{length}", whole + bytes(length)
    yield "over-1", whole + b"\x00\x01\x00\x02x"
    yield "over-64k", b"\x00\x01\xff\xffx"
    yield "into-checksum", b"\x00\x01\x00\x08"


STATUS: dict[str, Any] = {
    "own": LISTEN,
    "echo": DIAL,
    "beat": 12,
    "written": 1344,
    "read": 192,
    "flags": 0,
    "code": 0,
}


def status(
    name: str,
    comment: str,
    error: str | None = None,
    *,
    after: bytes = b"",
    says: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Vector:
    fields = STATUS | given
    expect: dict[str, Any] = {
        key: number(fields[key]) for key in ("beat", "written", "read", "code")
    }
    expect |= {"own": fields["own"].hex(), "echo": fields["echo"].hex()}
    expect |= {"closed": bool(fields["flags"] & e.CLOSED)}
    expect |= {"items": item_list(given.get("with_items", ())), **(says or {})}
    return vector(name, comment, e.status(**fields) + after, error or expect, **(more or {}))


def statuses() -> Iterator[Vector]:
    none = bytes(24)
    not_canonical = {"canonical": False}
    yield status("status", "the example")
    yield status("status-first", "nobody seen yet", echo=none, beat=1, written=0, read=0)
    reason = (e.REASON, b"interrupted")
    yield status(
        "status-closed", "the end, with a reason", flags=1, code=16, beat=13, with_items=(reason,)
    )
    report = (e.REPORT, b'{"rtt": 0.0021}')
    yield status(
        "status-report", "statistics, and an unknown item", with_items=(report, (999, b"?"))
    )
    full = ((e.REPORT, b"x" * 3988),)
    yield status("status-items-full", "4096 bytes, the most", with_items=full)
    for text, shown in ((b"gone\xff", "gone\ufffd"), (b"\xc3(", "\ufffd(")):
        more = {"texts": {str(e.REASON): shown}}
        items = ((e.REASON, text),)
        yield status(
            f"status-text-{text.hex()}",
            "malformed text",
            flags=1,
            code=9,
            with_items=items,
            more=more,
        )
    for code in (*range(10), *range(16, 23)):
        yield status(f"status-code-{code}", "a code of the table", flags=1, code=code)
    for code in (10, 15, 23, 65535):
        yield status(
            f"status-code-{code}",
            "an unknown code is INTERNAL",
            flags=1,
            code=code,
            says={"code": 9},
            more=not_canonical,
        )
    yield status(
        "status-largest",
        "large numbers",
        beat=MAX_SEQUENCE,
        written=MAX_SEQUENCE,
        read=MAX_SEQUENCE,
    )
    yield status(
        "status-reserved-12",
        "reserved fields are not looked at",
        reserved12=FOUR_GIB,
        more=not_canonical,
    )
    yield status(
        "status-reserved-88",
        "reserved fields are not looked at",
        reserved88=2**64 - 1,
        more=not_canonical,
    )
    yield status("status-page", "zeros after it", after=bytes(3992), more=not_canonical)
    yield status(
        "status-noise-after",
        "what stands after it is not looked at",
        after=b"\xff" * 8,
        more=not_canonical,
    )
    for flags in (2, 3, 0x8000):
        yield status(
            f"status-flags-{flags}",
            "an unknown flag: of a feature that is not in use (section 11)",
            IGNORED,
            flags=flags,
        )
    yield status("status-nobody", "no status is of no incarnation", IGNORED, own=none)
    block = e.status(**STATUS, with_items=(reason,))
    for at in (
        0,
        3,
        4,
        7,
        8,
        10,
        12,
        16,
        24,
        40,
        48,
        64,
        71,
        72,
        80,
        88,
        96,
        98,
        100,
        len(block) - 8,
        len(block) - 1,
    ):
        yield vector(
            f"status-flipped-{at}",
            f"byte {at} is torn: the checksum fails",
            flipped(block, at),
            IGNORED,
        )
    yield status("status-magic", "wrong magic, right checksum", IGNORED, magic=b"MXSU")
    for length in (0, 7, 8, 95, 96, 103, 105, 4096, 4097, FOUR_GIB):
        yield status(
            f"status-length-{length}",
            "wrong length, right checksum",
            IGNORED,
            length=length,
            after=bytes(4096),
        )
    yield status(
        "status-length-over",
        "a right status of 4097 bytes",
        IGNORED,
        with_items=((e.REPORT, b"x" * 3989),),
    )
    for name, tail in broken_items():
        yield status(f"status-items-{name}", "the items do not fill the space", IGNORED, tail=tail)
    yield vector("status-zeros", "never written", bytes(4096), IGNORED)
    yield vector("status-ones", "erased", b"\xff" * 4096, IGNORED)
    yield vector("status-birth", "a birth block in the wrong place", e.birth(**BIRTH), IGNORED)
    yield from truncations("status", e.status(**STATUS), IGNORED)
