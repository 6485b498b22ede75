"""Read the tables of protocol.md, and render and read its hex dumps (section 14).

A dump is a line `<!-- vector: ID -->` and a ```text fence of lines

    OFFSET  BYTES  NAME: VALUE

with the offset in hex, at most 16 bytes, and a name that stands in one of the
document's tables; a line without a name continues the field above.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from . import encoder as e
from . import expand, sealed, sealer

PATH = Path(__file__).parents[2] / "protocol.md"
BEGIN, END = "<!-- examples: begin -->\n", "<!-- examples: end -->\n"


class Field(NamedTuple):
    """A row of a layout; the length is None where it depends on others."""

    offset: str
    length: int | None
    name: str


class Line(NamedTuple):
    """A field of a dump."""

    offset: int
    data: bytes
    name: str
    value: str


def section(text: str, number: int) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {number}"
    return found[0]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a section, each a list of rows by column name."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([c.strip() for c in r.strip("|").split("|")] for r in block.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def table(text: str, number: int, *columns: str) -> list[dict[str, str]]:
    """The one table of a section that has these columns."""
    (found,) = (t for t in tables(section(text, number)) if list(t[0]) == list(columns))
    return found


def short(field: str) -> str:
    return re.split(r"[,:;(]", field)[0].strip()


def layout(text: str, number: int) -> list[Field]:
    rows = table(text, number, "offset", "length", "field")
    lengths = (int(r["length"]) if r["length"].isdigit() else None for r in rows)
    return [Field(r["offset"], n, short(r["field"])) for r, n in zip(rows, lengths, strict=True)]


def frame_types(text: str) -> list[dict[str, str]]:
    columns = ("type", "name", "stream", "flags", "code", "sequence number", "payload")
    return table(text, 6, *columns)


# Dumps


def kind_of(name: str) -> str:
    """What a vector of the document is: `birth`, `batch`, ..., whether sealed or not."""
    return name.removeprefix("sealed-").split("-", maxsplit=1)[0]


def read_dump(fence: str) -> list[Line]:
    """The fields of a dump; raises ValueError if its style or its offsets are wrong."""
    fields: list[Line] = []
    end = 0
    for text in fence.splitlines():
        found = re.fullmatch(
            r"([0-9a-f]{4})  ([0-9a-f]{2}(?: [0-9a-f]{2}){0,15})(?: +([a-z].*))?", text
        )
        if not found or int(found[1], 16) != end or not (found[3] or fields):
            raise ValueError(f"not a line of a dump, or not its offset: {text!r}")
        data = bytes.fromhex(found[2])
        if found[3]:
            name, _, value = found[3].partition(": ")
            fields.append(Line(end, data, name, value))
        else:
            fields[-1] = fields[-1]._replace(data=fields[-1].data + data)
        end += len(data)
    return fields


def dumps(text: str) -> dict[str, list[Line]]:
    """All dumps of the document, by vector."""
    found = re.findall(
        r"^<!-- vector: ([a-z0-9-]+) -->\n```text\n(.*?)^```\n", text, re.DOTALL | re.MULTILINE
    )
    return {name: read_dump(fence) for name, fence in found}


def render(lines: Iterator[Line]) -> str:
    out = []
    for offset, data, name, value in lines:
        for at in range(0, len(data), 16):
            label = "" if at else f"{name}: {value}" if value else name
            out.append(f"{offset + at:04x}  {data[at : at + 16].hex(' '):<47}  {label}".rstrip())
    return "".join(line + "\n" for line in out)


class Renderer:
    """Splits bytes into the fields that the document's tables name."""

    OPAQUE = ("magic", "nonce", "own incarnation", "echo", "checksum", "reserved", "epoch")
    TAG = 16

    def __init__(self, text: str) -> None:
        self.text = text
        codes = table(text, 6, "code", "name", "meaning")
        self.codes = {int(row["code"]): row["name"] for row in codes}
        self.types = {int(row["type"], 0): row["name"] for row in frame_types(text)}

    def fields(self, number: int, data: bytes, at: int) -> Iterator[Line]:
        """The fields of fixed length of a section's layout."""
        for field in layout(self.text, number):
            if field.length and field.offset.isdigit():
                part = data[at : at + field.length]
                yield Line(at, part, field.name, self.value(field.name, part))
                at += field.length

    def value(self, name: str, data: bytes) -> str:
        if name.startswith(self.OPAQUE):
            return ""
        number = int.from_bytes(data, "big")
        names = {"code": self.codes, "type": self.types}.get(name)
        return f"{number} ({names[number]})" if names else str(number)

    def items(self, data: bytes, at: int, end: int) -> Iterator[Line]:
        while at < end:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            yield Line(at, data[at : at + 2], "item type", str(data[at + 1]))
            yield Line(at + 2, data[at + 2 : at + 4], "item length", str(length))
            yield from self.item(at + 4, data[at + 4 : at + 4 + length], data[at + 1])
            at += 4 + length
        yield Line(end, data[end : end + 8], "checksum", "")

    def item(self, at: int, data: bytes, kind: int) -> Iterator[Line]:
        if kind == sealer.KEY:
            yield Line(at, data[:8], "key id", "")
            yield Line(at + 8, data[8:], "public share", "")
        elif kind == sealer.SEALED:
            yield from self.sealed(at, data, "sealed items")
        else:
            yield self.say(at, data, "item value")

    def sealed(self, at: int, data: bytes, name: str) -> Iterator[Line]:
        end = len(data) - self.TAG
        if end:
            yield Line(at, data[:end], name, "")
        yield Line(at + end, data[end:], "tag", "")

    def say(self, at: int, data: bytes, name: str) -> Line:
        return Line(at, data, name, json.dumps(data.decode()))

    def birth(self, data: bytes) -> Iterator[Line]:
        yield from self.fields(3, data, 0)
        yield from self.items(data, 96, len(data) - 8)

    def status(self, data: bytes) -> Iterator[Line]:
        yield from self.fields(4, data, 0)
        if data[9] & sealer.STATUS_SEALED:
            yield from self.sealed(96, data[96:-8], "sealed items")
            yield Line(len(data) - 8, data[-8:], "checksum", "")
        else:
            yield from self.items(data, 96, len(data) - 8)

    def batch(self, data: bytes) -> Iterator[Line]:
        end = 8 * data[3] + int.from_bytes(data[4:8], "big")
        if data[2] & sealer.BATCH_SEALED:
            yield from (line for line in self.fields(5, data, 0) if line.offset < 40)
            yield from self.sealed(40, data[40:end], "sealed frames")
        else:
            yield from self.fields(5, data, 0)
            yield from self.frames(data, 48, end)
        if data[end:]:
            yield Line(end, data[end:], "padding", "")

    def frames(self, data: bytes, at: int, end: int) -> Iterator[Line]:
        while at < end:
            yield from self.fields(6, data, at)
            kind, length = data[at], int.from_bytes(data[at + 16 : at + 20], "big")
            yield from self.payload(data, at + 20, length, kind)
            at += 20 + length

    def payload(self, data: bytes, at: int, length: int, kind: int) -> Iterator[Line]:
        end = at + length
        names = ("target", "originator") if kind == e.OPEN else ()
        for name in names:
            size = int.from_bytes(data[at : at + 2], "big")
            yield Line(at, data[at : at + 2], f"{name} length", str(size))
            yield self.say(at + 2, data[at + 2 : at + 2 + size], name)
            at += 2 + size
        if at < end:
            yield self.say(at, data[at:end], "payload")

    def incarnation(self, data: bytes) -> Iterator[Line]:
        yield Line(0, data[:8], "generation", str(int.from_bytes(data[:8], "big")))
        yield Line(8, data[8:], "nonce", "")

    def epoch(self, data: bytes) -> Iterator[Line]:
        yield self.say(0, data[:13], "label")
        yield Line(13, data[13:37], "dial incarnation", "")
        yield Line(37, data[37:], "listen incarnation", "")


EXAMPLES = (
    (
        "### Incarnations and epoch",
        (
            ("incarnation-dial", "The dial side is in its seventh life. Its incarnation:"),
            ("incarnation-listen", "The listen side is in its fourth:"),
            ("epoch", "What is hashed to name this pair (section 7):"),
        ),
    ),
    ("### Birth block", (("birth", "The dial side's, at offset 0 of `dial.mbx`:"),)),
    (
        "### Status",
        (
            (
                "status",
                "The twelfth of the listen side, in slot 0, at offset 4096 of `listen.mbx`. It"
                " echoes the dial side, so the dial side is established:",
            ),
            ("status-closed", "Its last one, in slot 1, with a reason:"),
        ),
    ),
    (
        "### Batches",
        (
            (
                "batch-open-data",
                "The first batch of the listen side. A client connected, sent 18 bytes and ended"
                " its direction: OPEN and DATA with FIN.",
            ),
            (
                "batch-answer",
                "The dial side accepts and sends the answer: ACCEPT and DATA. It acknowledges the"
                " batch above.",
            ),
            ("batch-ack", "The listen side has nothing to send but its ack: no frames."),
            (
                "batch-notice",
                "If it closed the session at this point instead, a NOTICE would stand there:",
            ),
            (
                "batch-control",
                "Later. The application of the dial side took 32768 bytes of stream 6, half of its"
                " window, and gets as many again: CREDIT. Stream 4 is refused, since nothing"
                " listens at its target: RESET and STOP.",
            ),
            (
                "batch-pad",
                "128 bytes before the end of a ring of 256 KiB, and the next batch is longer: a"
                " PAD. The next batch stands at position 262144, at the start of the ring.",
            ),
        ),
    ),
    (
        "### Sealed session",
        (
            (
                "sealed-birth",
                "The birth block of the dial side, if both have a key (section 17):",
            ),
            ("sealed-status", "The listen side's twelfth status:"),
            ("sealed-batch", "The listen side's first batch, with the same frames as above:"),
        ),
    ),
)

INTRODUCTION = """\
The examples belong to one session. Each dump is `offset  bytes  field: value`,
offset and bytes in hex. They are also in `tests/vectors/`, by the name in the
comment before each, together with many that a reader must not accept;
`python -m tests.vectors.make` writes both, and tests compare them with this
document and with the code.

The checksum of no bytes at all is `{empty}`.
"""


def with_examples(text: str, vectors: dict[str, dict[str, Any]]) -> str:
    """The document with section 14 written anew."""
    out = [INTRODUCTION.format(empty=e.checksum(b"").hex())]
    renderer = Renderer(text)
    for title, examples in EXAMPLES:
        out.append(f"{title}\n")
        if title == "### Sealed session":
            out.append(sealed.EXAMPLES)
        for name, comment in examples:
            data = expand(vectors[name]["hex"])
            dump = render(getattr(renderer, kind_of(name))(data))
            out.append(f"{fill(comment, 80)}\n\n<!-- vector: {name} -->\n```text\n{dump}```\n")
            if name == "epoch":
                out.append(
                    f"Its checksum, and so the epoch, is `{vectors[name]['expect']['epoch']}`.\n"
                )
    old = section(text, 14)
    title = old.splitlines()[0]
    body = BEGIN + "\n" + "\n".join(out) + "\n" + END
    return text.replace(old, f"{title}\n\n{body}\n")
