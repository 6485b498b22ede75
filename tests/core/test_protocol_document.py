"""protocol.md against the codec and the vectors: no side says what the other does not."""

import json
import re
import struct
from typing import Any

import attrs
import pytest

from muxfs.core import wire
from muxfs.core.wire import Birth, Code, Frame, FrameType, Incarnation, ItemType, Role, Status
from tests.core import test_vectors as checks
from tests.vectors import HERE, document, expand, load, make
from tests.vectors.document import Field, Line, layout, section, table

TEXT = document.PATH.read_text()
DUMPS = document.dumps(TEXT)
VECTORS = {v["id"]: v for layer in make.LAYERS for v in load(layer)}

ONE, OTHER = Incarnation(1, bytes(16)), Incarnation(2, b"\xff" * 16)


# What is generated


@pytest.mark.parametrize("layer", make.LAYERS)
def test_vectors_are_current(layer: str) -> None:
    assert make.text_of(layer) == (HERE / f"{layer}.json").read_text()


def test_no_other_vectors() -> None:
    assert {path.stem for path in HERE.glob("*.json")} == set(make.LAYERS)


def test_examples_are_current() -> None:
    assert document.with_examples(TEXT, make.all_vectors()) == TEXT


def test_contents() -> None:
    listed = re.findall(r"^(\d+)\. \[(.*?)\]\(#(.*?)\)$", TEXT, re.MULTILINE)
    titles = re.findall(r"^## (\d+)\. (.*)$", TEXT, re.MULTILINE)
    assert [(number, title) for number, title, _ in listed] == titles
    for number, title, anchor in listed:
        words = re.sub(r"[^a-z0-9 -]", "", f"{number}. {title}".lower())
        assert anchor == words.replace(" ", "-")


# Dumps


def fields_of(name: str) -> list[str]:
    """All names that a dump may use, from the tables."""
    parts = {"birth": (3,), "status": (4,), "batch": (5, 6), "incarnation": (3,), "epoch": ()}
    kind = document.kind_of(name)
    names = [f.name for number in parts[kind] for f in layout(TEXT, number)]
    payload = ["target length", "target", "originator length", "originator", "padding"]
    items = ["item type", "item length", "item value", "checksum"]
    sealing = ["key id", "public share", "sealed items", "sealed frames", "tag"]
    hashed = ["label", "dial incarnation", "listen incarnation"]
    return names + payload + items + sealing + hashed


def said(line: Line) -> Any:
    """The value that a line's bytes have, in the form in which the line says it."""
    if line.value.startswith('"'):
        return json.dumps(line.data.decode())
    number = int.from_bytes(line.data, "big")
    if line.name == "code":
        return f"{number} ({Code(number).name})"
    if line.name == "type":
        return f"{number} ({FrameType(number).name})"
    return str(number)


@pytest.mark.parametrize("name", DUMPS)
def test_dump(name: str) -> None:
    data = b"".join(line.data for line in DUMPS[name])
    vector = VECTORS[name]
    assert data == expand(vector["hex"])
    for line in DUMPS[name]:
        assert line.name in fields_of(name)
        assert not line.value or line.value == said(line), line
        if line.name == "padding":
            assert not any(line.data)
    layer = "sealed" if name.startswith("sealed-") else document.kind_of(name)
    getattr(checks, f"test_{layer}")(vector)


@pytest.mark.parametrize(("name", "number"), [("birth", 3), ("status", 4), ("batch-ack", 5)])
def test_dump_has_all_fields(name: str, number: int) -> None:
    lines = {(line.offset, len(line.data), line.name) for line in DUMPS[name]}
    fixed = {(int(f.offset), f.length, f.name) for f in layout(TEXT, number) if is_fixed(f)}
    assert fixed <= lines


def test_every_fence_is_a_dump() -> None:
    assert section(TEXT, 14).count("```text\n") == len(DUMPS) > 0


def test_epoch_of_the_example() -> None:
    assert f"`{VECTORS['epoch']['expect']['epoch']}`" in section(TEXT, 14)


@pytest.mark.parametrize(
    "fence",
    [
        "0000  00 a: 0\n0002  00\n",  # a gap
        "0000  00\n",  # no name
        "0000  0\n",
        "0000  00 00  Name: 0\n",
        "0000  " + "00 " * 16 + "00  seventeen: 0\n",
    ],
)
def test_bad_dump_shows(fence: str) -> None:
    with pytest.raises(ValueError, match="not a line of a dump"):
        document.read_dump(fence)


# Constants


def numbers_of_wire() -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(wire).items()
        if name.isupper() and not name.startswith("_")
    }


def cell(number: int, pattern: str) -> str:
    """What stands in the parentheses of the pattern, in the field column of a layout."""
    rows = table(TEXT, number, "offset", "length", "field")
    (found,) = (m[1] for row in rows if (m := re.fullmatch(pattern, row["field"])))
    return found


def said_elsewhere() -> dict[str, Any]:
    """Constants that the document gives outside section 13, by the codec's names."""
    names = {3: "BIRTH_MAGIC", 4: "STATUS_MAGIC", 5: "BATCH_MAGIC"}
    magics = {name: bytes.fromhex(cell(n, r"magic: ([0-9A-F ]+)")) for n, name in names.items()}
    (label,) = re.findall(r'`"(.*?)" \|\| dial', section(TEXT, 7))
    (first,) = re.findall(r"Types (0x[0-9A-F]{2}) to 0xFF are ignored", section(TEXT, 6))
    (sealed_label,) = re.findall(r'root += extract\("(.*?)", key\)', section(TEXT, 17))
    (feature,) = re.findall(r"Feature bit 0 \(value (\d+), SEALED\)", section(TEXT, 11))
    places = {f.name: f for f in layout(TEXT, 3)} | {f.name: f for f in layout(TEXT, 5)}
    return magics | {
        "VERSION_MAJOR": int(cell(3, r"version major: (\d+)")),
        "VERSION_MINOR": int(cell(3, r"version minor: (\d+)")),
        "LAYOUT_RING": int(cell(3, r"layout: (\d+) \(ring.*")),
        "EPOCH_LABEL": label.encode(),
        "NONCE_LENGTH": places["nonce"].length,
        "SESSION_STREAM": int(cell(6, r"stream id; (\d+) is the session")),
        "FIRST_IGNORABLE_TYPE": int(first, 0),
        "MARKER_OFFSET": int(places["epoch"].offset),
        "SEALED_LABEL": sealed_label.encode(),
        "FEATURE_SEALED": int(feature),
    }


def flags() -> dict[str, int]:
    data = next(row for row in document.frame_types(TEXT) if row["name"] == "DATA")
    texts = {
        "STATUS": cell(4, r"flags: (.*)"),
        "BATCH": cell(5, r"flags: (.*)"),
        "FLAG": data["flags"],
    }
    return {
        f"{kind}_{name}": int(value)
        for kind, text in texts.items()
        for value, name in re.findall(r"(\d+) ([A-Z]+)", text)
    }


def test_constants() -> None:
    listed = {row["name"]: int(row["value"]) for row in table(TEXT, 13, "name", "value")}
    assert listed | said_elsewhere() | flags() == numbers_of_wire()


def test_codes() -> None:
    rows = table(TEXT, 6, "code", "name", "meaning")
    assert [(int(r["code"]), r["name"]) for r in rows] == [(c.value, c.name) for c in Code]


def test_frame_types() -> None:
    rows = document.frame_types(TEXT)
    zero, *types = ((int(r["type"], 0), r["name"]) for r in rows)
    assert zero == (0, "")
    assert types == [(t.value, t.name) for t in FrameType]


def test_item_types() -> None:
    rows = table(TEXT, 3, "type", "where", "value")
    assert [int(r["type"]) for r in rows] == list(ItemType)
    for row, item in zip(rows, ItemType, strict=True):
        # "started" is told as "start of the process"
        assert row["value"].startswith(item.name.lower().removesuffix("ed"))


# Layouts


def is_fixed(field: Field) -> bool:
    return field.offset.isdigit() and field.length is not None


def fixed(number: int) -> list[Field]:
    return [field for field in layout(TEXT, number) if is_fixed(field)]


@pytest.mark.parametrize(
    ("number", "codec", "size"),
    [
        (3, wire._BIRTH, wire.BIRTH_FIXED),
        (4, wire._STATUS, wire.STATUS_FIXED),
        (5, wire._BATCH, wire.BATCH_HEADER),
        (6, wire._FRAME, wire.FRAME_HEADER),
    ],
    ids=["birth", "status", "batch", "frame"],
)
def test_layout(number: int, codec: struct.Struct, size: int) -> None:
    lengths = [struct.calcsize(f"!{f}") for f in re.findall(r"\d*[a-zA-Z]", codec.format)]
    assert [field.length for field in fixed(number)] == lengths
    at = 0
    for field in fixed(number):
        assert int(field.offset) == at
        at += field.length or 0
    assert at == codec.size == size
    after = layout(TEXT, number)[len(lengths)]
    assert int(after.offset) == size


@pytest.mark.parametrize("number", [3, 4])
def test_checksum_stands_last(number: int) -> None:
    last = layout(TEXT, number)[-1]
    assert (last.offset, last.length) == (f"length - {wire.CHECKSUM_LENGTH}", wire.CHECKSUM_LENGTH)
    assert last.name.startswith("checksum")


def test_file() -> None:
    rows = table(TEXT, 2, "offset", "length", "content")
    offsets = [int(row["offset"]) for row in rows]
    birth, slot_0, slot_1, _, ring = offsets
    assert (birth, slot_0, slot_1) == (0, wire.status_offset(0), wire.status_offset(1))
    assert ring == wire.RING_OFFSET
    assert all(int(row["length"]) == wire.PAGE for row in rows[:4])
    assert offsets == [wire.PAGE * page for page in range(5)]
    assert slot_1 + wire.PAGE == wire.HEAD_LENGTH


def touched(number: int, before: bytes, after: bytes) -> set[str]:
    """Names of the fields in which two encodings differ."""
    places = ((f.name, int(f.offset), int(f.offset) + (f.length or 0)) for f in fixed(number))
    return {name for name, start, end in places if before[start:end] != after[start:end]}


def check_fields(
    number: int, base: Any, encode: Any, others: dict[str, tuple[Any, set[str]]], rest: set[str]
) -> None:
    """Each attribute changes the fields that the table names, and every field is somebody's.

    `rest` are the fields that no attribute changes.
    """
    assert set(others) == {field.name for field in attrs.fields(type(base))}
    for name, (value, expected) in others.items():
        changed = encode(attrs.evolve(base, **{name: value}))
        assert touched(number, encode(base), changed) == expected, name
    named = set().union(*(names for _, names in others.values())) | rest
    assert named == {field.name for field in fixed(number)}


def test_birth_fields() -> None:
    others = {
        "role": (Role.LISTEN, {"role of the writer"}),
        "incarnation": (OTHER, {"generation", "nonce"}),
        "capacity": (wire.MIN_CAPACITY, {"ring capacity"}),
        "ring_offset": (wire.MAX_RING_OFFSET, {"ring offset"}),
        "max_batch": (wire.MIN_MAX_BATCH, {"max batch"}),
        "max_streams": (1, {"max streams"}),
        "initial_credit": (1, {"initial credit"}),
        "features_offered": (1, {"features offered"}),
        "features_required": (1, {"features required"}),
        "heartbeat": (1, {"heartbeat"}),
        "peer_timeout": (1, {"peer timeout"}),
        "version_minor": (1, {"version minor"}),
        "items": (((1, b"x"),), {"length of the block"}),
        "block": (b"x", set()),
    }
    rest = {"magic", "version major", "layout"}
    check_fields(3, Birth(Role.DIAL, ONE), wire.encode_birth, others, rest)


def test_status_fields() -> None:
    others = {
        "incarnation": (OTHER, {"own incarnation"}),
        "echo": (OTHER, {"echo"}),
        "beat": (2, {"beat"}),
        "write_position": (1, {"write position of the current epoch"}),
        "read_position": (1, {"read position of the current epoch"}),
        "closed": (True, {"flags"}),
        "code": (Code.SHUTDOWN, {"code"}),
        "items": (((1, b"x"),), {"length of the status"}),
    }
    check_fields(4, Status(ONE, ONE, beat=1), wire.encode_status, others, {"magic", "reserved"})


def test_frame_fields() -> None:
    others = {
        "type": (FrameType.PONG, {"type"}),
        "flags": (1, {"flags"}),
        "code": (1, {"code"}),
        "stream_id": (1, {"stream id"}),
        "sequence": (1, {"sequence number"}),
        "payload": (b"x", {"payload length"}),
    }
    check_fields(6, Frame(FrameType.PING, 0), wire.encode_frame, others, set())


def test_batch_fields() -> None:
    def encode(**given: Any) -> bytes:
        fields: dict[str, Any] = {
            "epoch": 0,
            "position": 0,
            "ack": 0,
            "parts": (),
            "frame_count": 0,
        } | given
        return b"".join(wire.encode_batch(**fields))

    base = encode()
    checksum = {f.name for f in fixed(5) if f.name.startswith("checksum")}
    others = {
        "epoch": (1, {"epoch"}),
        "position": (64, {"position of this batch"}),
        "ack": (1, {"ack"}),
        "parts": ((b"x",), {"body length"}),
        "frame_count": (1, {"number of frames in the body"}),
    }
    for name, (value, names) in others.items():
        assert touched(5, base, encode(**{name: value})) == names | checksum
    for flagged in (wire.encode_pad(0, 0, 0), wire.encode_notice(0, 0, 0)):
        assert touched(5, base, b"".join(flagged)) == {"flags"} | checksum
    assert cell(5, r"header length in units of 8 bytes: (\d+);.*") == str(base[3])
    sealed = cell(5, r"header length in units of 8 bytes: .* sealed batch: (\d+)")
    assert 8 * int(sealed) == wire.SEALED_HEADER
