"""Each vector of tests/vectors against the codec, in both directions."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from muxfs.core import wire
from muxfs.core.inbound import ReceiveRing
from muxfs.core.multiplexer import Multiplexer
from muxfs.core.proof import SealedBlocks
from muxfs.core.wire import Frame, Incarnation, IncompatibleVersion, ItemType, ProtocolViolation
from muxfs.sealing.key import Key, make_sealer
from tests.vectors import HERE, expand, integer, load

Vector = dict[str, Any]


def vectors(layer: str, *, key: str = "id") -> pytest.MarkDecorator:
    """Parametrize over the vectors of a layer that have that key."""
    found = [pytest.param(v, id=v["id"]) for v in load(layer) if key in v]
    assert found
    return pytest.mark.parametrize("vector", found)


def incarnation(text: str) -> Incarnation | None:
    return Incarnation.decode(bytes.fromhex(text))


def items(listed: list[tuple[int, str]]) -> wire.Items:
    return tuple((kind, expand(value)) for kind, value in listed)


def check_encoding(vector: Vector, encoded: bytes) -> None:
    if vector.get("canonical", True):
        assert encoded == expand(vector["hex"])


# Incarnation and epoch


@vectors("incarnation")
def test_incarnation(vector: Vector) -> None:
    data, expect = expand(vector["hex"]), vector["expect"]
    decoded = Incarnation.decode(data)
    if not expect:
        assert decoded is None
        return
    assert decoded == Incarnation(integer(expect["generation"]), expand(expect["nonce"]))
    assert decoded.encode() == data


@vectors("epoch")
def test_epoch(vector: Vector) -> None:
    expect = vector["expect"]
    dial, listen = incarnation(expect["dial"]), incarnation(expect["listen"])
    assert dial
    assert listen
    assert expand(vector["hex"]) == wire.EPOCH_LABEL + dial.encode() + listen.encode()
    assert wire.epoch_of(dial, listen) == integer(expect["epoch"])


# Birth block and status


def birth_of(expect: Vector) -> wire.Birth:
    numbers = {k: integer(v) for k, v in expect.items() if k not in {"nonce", "items"}}
    return wire.Birth(
        role=wire.Role(numbers.pop("role")),
        incarnation=Incarnation(numbers.pop("generation"), expand(expect["nonce"])),
        version_minor=numbers.pop("minor"),
        features_offered=numbers.pop("offered"),
        features_required=numbers.pop("required"),
        items=items(expect["items"]),
        **numbers,
    )


@vectors("birth")
def test_birth(vector: Vector) -> None:
    page = expand(vector["hex"])
    match vector.get("error"):
        case "not-there-yet":
            assert wire.decode_birth(page) is None
        case "version":
            with pytest.raises(IncompatibleVersion):
                wire.decode_birth(page)
        case "protocol":
            with pytest.raises(ProtocolViolation):
                wire.decode_birth(page)
        case _:
            birth = birth_of(vector["expect"])
            assert wire.decode_birth(page) == birth
            check_encoding(vector, wire.encode_birth(birth))


def status_of(expect: Vector) -> wire.Status:
    own = incarnation(expect["own"])
    assert own
    return wire.Status(
        incarnation=own,
        echo=incarnation(expect["echo"]),
        beat=integer(expect["beat"]),
        write_position=integer(expect["written"]),
        read_position=integer(expect["read"]),
        closed=expect["closed"],
        code=wire.Code(expect["code"]),
        items=items(expect["items"]),
    )


@vectors("status")
def test_status(vector: Vector) -> None:
    page = expand(vector["hex"])
    if "error" in vector:
        assert vector["error"] == "ignored"
        assert wire.decode_status(page) is None
        return
    status = status_of(vector["expect"])
    assert wire.decode_status(page) == status
    check_encoding(vector, wire.encode_status(status))


@pytest.mark.parametrize("layer", ["birth", "status"])
def test_texts(layer: str) -> None:
    decode = {"birth": wire.decode_birth, "status": wire.decode_status}[layer]
    checked = 0
    for vector in load(layer):
        for kind, shown in vector.get("texts", {}).items():
            decoded = decode(expand(vector["hex"]))
            assert decoded
            assert decoded.text(ItemType(int(kind))) == shown
            checked += 1
    assert checked


# Frames and the payload of OPEN


def listed(frames: list[Frame]) -> list[Vector]:
    return [
        {
            "type": frame.type,
            "flags": frame.flags,
            "code": frame.code,
            "stream": frame.stream_id,
            "sequence": frame.sequence,
            "payload": bytes(frame.payload),
        }
        for frame in frames
    ]


def expected(frames: list[Vector]) -> list[Vector]:
    def value(key: str, given: Any) -> Any:
        return expand(given) if key == "payload" else integer(given)

    return [{key: value(key, given) for key, given in frame.items()} for frame in frames]


@vectors("frames")
def test_frames(vector: Vector) -> None:
    body, count = expand(vector["hex"]), vector["count"]
    if "error" in vector:
        assert vector["error"] == "protocol"
        with pytest.raises(ProtocolViolation):
            list(wire.decode_frames(memoryview(body), count))
        return
    frames = list(wire.decode_frames(memoryview(body), count))
    assert listed(frames) == expected(vector["expect"]["frames"])
    assert b"".join(map(wire.encode_frame, frames)) == body


@vectors("frames", key="session")
def test_session(vector: Vector) -> None:
    """What the frames mean to a session: see `notes` in frames.json."""
    session = Multiplexer(
        role=wire.Role.DIAL,
        peer_max_streams=wire.DEFAULT_MAX_STREAMS,
        peer_initial_credit=wire.DEFAULT_INITIAL_CREDIT,
        max_streams=wire.DEFAULT_MAX_STREAMS,
        initial_credit=wire.DEFAULT_INITIAL_CREDIT,
    )
    session.open("localhost:1")
    body = memoryview(expand(vector["hex"]))
    frames = list(wire.decode_frames(body, vector["count"]))
    last = frames.pop() if vector["session"] == "protocol" else None
    for frame in frames:
        session.receive(frame, len(body))
    if last is not None:
        with pytest.raises(ProtocolViolation):
            session.receive(last, len(body))


@vectors("open")
def test_open(vector: Vector) -> None:
    payload = memoryview(expand(vector["hex"]))
    if "error" in vector:
        assert vector["error"] == "protocol"
        with pytest.raises(ProtocolViolation):
            wire.decode_open(payload)
        return
    texts = vector["expect"]["target"], vector["expect"]["originator"]
    assert wire.decode_open(payload) == texts
    check_encoding(vector, wire.encode_open(*texts))


# Batches


def ring_of(vector: Vector) -> ReceiveRing:
    return ReceiveRing(
        epoch=integer(vector["epoch"]),
        ring_offset=wire.RING_OFFSET,
        capacity=vector["capacity"],
        max_batch=vector.get("max_batch", wire.DEFAULT_MAX_BATCH),
        position=integer(vector["position"]),
    )


def encoded(
    expect: Vector, epoch: int, position: int, proof: wire.BatchProof = wire.by_checksum
) -> bytes:
    parts = [
        wire.encode_frame(
            Frame(f["type"], f["stream"], f["sequence"], f["payload"], f["flags"], f["code"])
        )
        for f in expected(expect["frames"])
    ]
    ack = integer(expect["ack"])
    if expect["pad"]:
        return b"".join(wire.encode_pad(epoch, position, ack, proof))
    if expect.get("notice"):
        return b"".join(wire.encode_notice(epoch, position, ack, proof))
    return b"".join(wire.encode_batch(epoch, position, ack, parts, len(parts), proof))


@vectors("batch")
def test_batch(vector: Vector) -> None:
    ring = ring_of(vector)
    start = ring.position
    data = expand(vector["hex"])
    found = list(ring.receive(ring.first_piece(), data))
    if vector.get("error") == "not-there-yet":
        assert not found
        assert ring.position == start
        return
    (batch,) = found
    if vector.get("error") == "protocol" and not batch.header.pad:
        with pytest.raises(ProtocolViolation):
            list(wire.decode_frames(batch.body, batch.header.frame_count))
        return
    if vector.get("error") == "protocol":
        # the codec tells, the session judges
        assert batch.header.body_length or batch.header.frame_count
        return
    expect = vector["expect"]
    assert batch.header.ack == integer(expect["ack"])
    assert batch.header.pad == expect["pad"]
    assert batch.header.notice == expect["notice"]
    assert ring.position == integer(expect["next"])
    frames = list(wire.decode_frames(batch.body, batch.header.frame_count))
    assert listed(frames) == expected(expect["frames"])
    check_encoding(vector, encoded(expect, ring.epoch, start))


@vectors("transcript")
def test_transcript(vector: Vector) -> None:
    dial, listen = incarnation(vector["dial"]), incarnation(vector["listen"])
    assert dial
    assert listen
    pair = wire.epoch_of(dial, listen)
    epochs = {role.name.lower(): wire.batch_epoch(pair, role) for role in wire.Role}
    rings = {
        name: ring_of({"epoch": epoch, "position": 0, "capacity": vector["capacity"]})
        for name, epoch in epochs.items()
    }
    for step in vector["steps"]:
        ring = rings[step["from"]]
        peer = rings["listen" if step["from"] == "dial" else "dial"]
        data = expand(step["hex"])
        assert (ring.position, peer.position) == (step["position"], step["ack"])
        assert encoded(step, epochs[step["from"]], ring.position) == data
        (batch,) = ring.receive(ring.first_piece(), data)
        assert batch.header.ack == step["ack"]
        assert ring.position == step["next"]
        frames = list(wire.decode_frames(batch.body, batch.header.frame_count))
        assert listed(frames) == expected(step["frames"])


def test_transcripts_have_all_types() -> None:
    seen = {f["type"] for v in load("transcript") for step in v["steps"] for f in step["frames"]}
    assert seen >= set(wire.FrameType)


# Sealed sessions


@attrs.frozen
class Keyed:
    """The two sides of the sealed vectors, as the dial side and its peer have them."""

    birth: dict[str, wire.Birth]
    blocks: dict[str, SealedBlocks]

    @classmethod
    def of(cls, vector: Vector) -> Keyed:
        key = Key(expand(vector["hex"]), name=vector["session"])
        blocks = {side: SealedBlocks(make_sealer(key)) for side in SIDES}
        given = {v["id"]: v for v in load("sealed")}
        births = {
            side: blocks[side].begin(
                wire.Birth(
                    SIDES[side],
                    incarnation(vector[side]),  # type: ignore[arg-type]
                    items=items(given[name]["expect"]["items"]),
                ),
                expand(vector[f"{side}_private"]),
            )
            for side, name in (("dial", "sealed-birth"), ("listen", "sealed-birth-listen"))
        }
        return cls(births, blocks)

    def proof(self, writer: str) -> wire.BatchProof:
        """What proves the batches of a side, as its peer has it."""
        reader = "listen" if writer == "dial" else "dial"
        return self.blocks[reader].batches(self.birth[reader], self.birth[writer])[1]


SIDES = {role.name.lower(): role for role in wire.Role}
KEYED = Keyed.of(next(v for v in load("sealed") if v["kind"] == "keys"))


@vectors("sealed")
def test_sealed(vector: Vector) -> None:
    {"keys": check_keys, "birth": check_birth, "status": check_status, "batch": check_batch}[
        vector["kind"]
    ](vector)


def check_keys(vector: Vector) -> None:
    """What is to be seen of the keys from outside; the rest shows in what they seal."""
    expect = vector["expect"]
    for side, birth in KEYED.birth.items():
        share = expand(expect["key_id"]) + expand(expect[f"{side}_share"])
        assert birth.item(ItemType.KEY) == share
    for secret, position in (("dial_batch", 64), ("dial_batch_next_span", wire.KEY_SPAN + 64)):
        (head, body) = (
            KEYED.blocks["dial"]
            .batches(KEYED.birth["dial"], KEYED.birth["listen"])[0]
            .prove(position, b"head", [b"fra", b"mes"])
        )
        cipher = AESGCM(expand(expect[secret]))
        assert cipher.decrypt(position.to_bytes(12, "big"), bytes(body), bytes(head)) == b"frames"


def check_birth(vector: Vector) -> None:
    writer = SIDES[vector["writer"]]
    blocks = KEYED.blocks[writer.peer.name.lower()]
    birth = blocks.decode_birth(expand(vector["hex"]), writer)
    stranger = blocks.stranger(expand(vector["hex"]))
    assert (stranger.why.name if stranger else "") == vector["tells"]
    if "error" in vector:
        assert birth is None
        return
    assert birth is not None
    assert birth.items[2:] == items(vector["expect"]["items"])
    assert KEYED.birth[vector["writer"]].block == expand(vector["hex"])


def check_status(vector: Vector) -> None:
    writer = SIDES[vector["writer"]]
    blocks = KEYED.blocks[writer.peer.name.lower()]
    found = blocks.decode_status(expand(vector["hex"]), writer)
    if "error" in vector:
        assert found is None
        return
    assert found == status_of(vector["expect"])
    assert blocks.encode_status(found, writer) == expand(vector["hex"])


def check_batch(vector: Vector) -> None:
    ring = ring_of(vector)
    ring.proof = KEYED.proof(vector["writer"])
    start = ring.position
    found = list(ring.receive(ring.first_piece(), expand(vector["hex"])))
    if "error" in vector:
        assert not found
        assert ring.position == start
        return
    (batch,) = found
    expect = vector["expect"]
    assert (batch.header.ack, batch.header.pad) == (integer(expect["ack"]), expect["pad"])
    assert ring.position == integer(expect["next"])
    frames = list(wire.decode_frames(batch.body, batch.header.frame_count))
    assert listed(frames) == expected(expect["frames"])
    check_encoding(vector, encoded(expect, ring.epoch, start, ring.proof))


# The form of the vectors


def test_ids_differ() -> None:
    ids = [v["id"] for path in sorted(HERE.glob("*.json")) for v in load(path.stem)]
    assert len(ids) == len(set(ids))
