"""Sealed sessions on bad storage, with a stranger who copies the files and puts parts back.

The promises are those of `tests.core.machine`, and one more: no key ever seals two
contents with one number, whatever happens to processes and files.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from muxfs.core import wire
from muxfs.core.conversation import Conversation
from muxfs.core.flight import Flight
from muxfs.core.inbound import ReadTimes, ReceiveRing
from muxfs.core.multiplexer import Changes
from muxfs.core.proof import SealedBlocks
from muxfs.core.wire import PAGE, Birth, Buffer, Code, Incarnation, ItemType, Role, Status
from muxfs.sealing import schedule
from muxfs.sealing.key import Key, make_sealer
from tests.core.machine import Broken, Chances, World, configs_of, explore
from tests.core.test_sessions_on_bad_storage import (
    FUZZ,
    THOROUGH,
    BadStorage,
    Twins,
    roles,
    seeds,
)

KEY = Key(bytes(range(32)), name="job/0")
SCHEDULES = 5_000 if THOROUGH else 60


class Watched(schedule.AesGcm):
    """Remembers what was sealed with which number."""

    sealed: ClassVar[dict[tuple[bytes, int], bytes]] = {}

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._key = key

    def seal(self, number: int, header: bytes, parts: Sequence[Buffer]) -> bytes:
        sealed = super().seal(number, header, parts)
        content = hashlib.sha256(header + sealed).digest()
        if self.sealed.setdefault((self._key, number), content) != content:
            raise Broken("two contents were sealed with the number", number)
        return sealed


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(schedule, "AesGcm", Watched)
    Watched.sealed.clear()
    yield
    Watched.sealed.clear()


def make_blocks(key: Key = KEY) -> SealedBlocks:
    return SealedBlocks(make_sealer(key))


# Whole sessions


class SealedStorage(BadStorage):
    """One process of each role, every fault of the storage, and a stranger."""

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        Watched.sealed.clear()  # a seed that comes again draws the same nonces
        self.world = World.of(configs_of(random.Random(seed)), seed)
        self.world.make_blocks = make_blocks

    @rule(role=roles, seed=seeds)
    def copy(self, role: Role, seed: int) -> None:
        self.world.copy(role, random.Random(seed))

    @rule(role=roles, seed=seeds)
    def put_back(self, role: Role, seed: int) -> None:
        self.world.put_back(role, random.Random(seed))


class SealedTwins(SealedStorage, Twins):
    """The same with several live processes of one role."""


def test_two_sides() -> None:
    run_state_machine_as_test(SealedStorage, settings=FUZZ)


def test_two_sides_and_their_twins() -> None:
    run_state_machine_as_test(SealedTwins, settings=FUZZ)


@pytest.mark.parametrize("twins", [False, True], ids=["alone", "twins"])
def test_random_schedules(twins: bool) -> None:
    chances = Chances(twins=twins, replays=True)
    for seed in range(SCHEDULES):
        Watched.sealed.clear()
        explore(seed, 400 if THOROUGH else 150, chances, make_blocks)


def test_the_watch_on_numbers_works() -> None:
    cipher = make_sealer(KEY).control(Role.DIAL, Incarnation(1, bytes(16)))
    assert cipher.seal(1, b"header", [b"text"]) == cipher.seal(1, b"header", [b"te", b"xt"])
    with pytest.raises(Broken):
        cipher.seal(1, b"header", [b"other"])


# What a changed bit does


DIAL, LISTEN = Incarnation(3, b"d" * 16), Incarnation(5, b"l" * 16)
ITEMS = ((ItemType.HOST, b"node17"), (ItemType.LABEL, b"x" * 40))
FRAMES = wire.encode_frame(wire.Frame(wire.FrameType.DATA, 1, 0, b"the content" * 20))


def side(role: Role, key: Key = KEY) -> tuple[SealedBlocks, Birth]:
    blocks = make_blocks(key)
    incarnation = DIAL if role is Role.DIAL else LISTEN
    return blocks, blocks.begin(Birth(role, incarnation, items=ITEMS), bytes([role + 1]) * 32)


def whole_file(position: int = 640) -> tuple[bytes, bytes, bytes, ReceiveRing]:
    """Birth block, status and batch of a dial side, and how its peer reads the ring."""
    (dial, own), (listen, peer) = side(Role.DIAL), side(Role.LISTEN)
    status = Status(DIAL, LISTEN, 7, 1344, 192, code=Code.OK, items=ITEMS)
    proof, _ = dial.batches(own, peer)
    epoch = wire.batch_epoch(wire.epoch_of(DIAL, LISTEN), Role.DIAL)
    batch = b"".join(wire.encode_batch(epoch, position, 64, [FRAMES], 1, proof))
    met = listen.decode_birth(own.block, Role.DIAL)
    assert met is not None
    _, its = listen.batches(peer, met)
    ring = ReceiveRing(epoch, PAGE, wire.MIN_CAPACITY, 65536, position=position, proof=its)
    return own.block, dial.encode_status(status, Role.DIAL), batch, ring


def test_unchanged_all_is_believed() -> None:
    birth, status, batch, ring = whole_file()
    listen, _ = side(Role.LISTEN)
    met = listen.decode_birth(birth.ljust(PAGE, b"\0"), Role.DIAL)
    assert met is not None
    assert met.text(ItemType.HOST) == "node17"
    told = listen.decode_status(status, Role.DIAL)
    assert told is not None
    assert told.items == ITEMS
    (found,) = ring.receive(ring.first_piece(), batch)
    assert bytes(found.body) == FRAMES


@given(bit=st.integers(0, 2**16), mended=st.booleans())
def test_no_bit_of_a_block_can_be_changed(bit: int, mended: bool) -> None:
    """Not even by somebody who makes the checksum right."""
    birth, status, _, _ = whole_file()
    listen, _ = side(Role.LISTEN)
    for block, decode in ((birth, listen.decode_birth), (status, listen.decode_status)):
        changed = bytearray(block)
        at = bit % (8 * (len(block) - wire.CHECKSUM_LENGTH))
        changed[at // 8] ^= 1 << at % 8
        data = bytes(changed)
        if mended:
            data = wire.with_checksum(data[: -wire.CHECKSUM_LENGTH])
        assert decode(data.ljust(PAGE, b"\0"), Role.DIAL) is None


@given(bit=st.integers(0, 2**16), cut=st.integers(0, 400))
def test_no_bit_of_a_batch_can_be_changed(bit: int, cut: int) -> None:
    *_, batch, ring = whole_file()
    length = wire.SEALED_HEADER + len(FRAMES) + wire.TAG_LENGTH
    changed = bytearray(batch)
    at = bit % (8 * length)
    changed[at // 8] ^= 1 << at % 8
    assert not list(ring.receive(ring.first_piece(), bytes(changed)))
    assert not list(ring.receive(ring.first_piece(), batch[: cut % length]))
    assert ring.position == 640
    assert len(list(ring.receive(ring.first_piece(), batch))) == 1


@given(data=st.binary(max_size=600), header=st.booleans())
def test_nothing_else_is_a_sealed_batch(data: bytes, header: bool) -> None:
    *_, batch, ring = whole_file()
    data = (batch[: wire.SEALED_HEADER] if header else b"") + data
    assert not list(ring.receive(ring.first_piece(), data))
    assert ring.position == 640


@given(secret=st.binary(min_size=32, max_size=32), name=st.text(max_size=20))
def test_another_key_or_name_opens_nothing(secret: bytes, name: str) -> None:
    if (secret, name) == (KEY.secret, KEY.name):
        return
    birth, status, _, _ = whole_file()
    other, _ = side(Role.LISTEN, Key(secret, name=name))
    assert other.decode_birth(birth, Role.DIAL) is None
    assert other.decode_status(status, Role.DIAL) is None


def test_keys_of_a_session_belong_to_the_very_blocks_of_both_sides() -> None:
    """A side that meets another block of the same incarnation has other keys."""
    (dial, own), (listen, peer) = side(Role.DIAL), side(Role.LISTEN)
    proof, _ = dial.batches(own, peer)
    Watched.sealed.clear()  # what no honest side does
    again = make_blocks()
    changed = again.begin(Birth(Role.DIAL, DIAL, max_streams=1), bytes([1]) * 32)
    head = bytes(wire.SEALED_HEADER)
    seals = {bytes(proof.prove(64, head, [b"text"])[1])}
    seals.add(bytes(listen.batches(peer, changed)[1].prove(64, head, [b"text"])[1]))
    later = make_blocks()
    reborn = later.begin(Birth(Role.DIAL, Incarnation(4, DIAL.nonce)), bytes([9]) * 32)
    seals.add(bytes(later.batches(reborn, peer)[0].prove(64, head, [b"text"])[1]))
    seals.add(bytes(dial.batches(own, peer)[1].prove(64, head, [b"text"])[1]))
    assert len(seals) == 4


def test_a_share_that_is_none() -> None:
    """The neutral element of X25519, from a holder of the key."""
    listen, peer = side(Role.LISTEN)
    _, own = side(Role.DIAL)
    items = ((ItemType.KEY, bytes(8) + bytes(32)),)
    hostile = Birth(Role.DIAL, DIAL, items=items, block=own.block)
    with pytest.raises(wire.ProtocolViolation, match="share"):
        listen.batches(peer, hostile)


def test_a_pad_has_a_tag_and_no_body() -> None:
    (dial, own), (listen, peer) = side(Role.DIAL), side(Role.LISTEN)
    epoch = wire.epoch_of(DIAL, LISTEN)
    proof, _ = dial.batches(own, peer)
    pad = wire.encode_pad(wire.batch_epoch(epoch, Role.DIAL), 0, 0, proof)
    talk = Conversation.begin(peer, own, epoch, listen, Flight(), ReadTimes(), Changes())
    assert talk.receive(talk.inbound.first_piece(), b"".join(pad), 0.0)
    assert talk.inbound.position == own.capacity
