"""Who the peer is: generations, echoes, silence."""

from __future__ import annotations

import pytest

from muxfs.core import wire
from muxfs.core.link import Link, Meeting, first_generation, newest_status, previous_life
from muxfs.core.wire import Birth, Incarnation, ItemType, Role, Status

MINE = Incarnation(5, b"m" * 16)
ITS = Incarnation(3, b"p" * 16)


def birth(incarnation: Incarnation, role: Role = Role.LISTEN, **fields: int) -> Birth:
    """Make a birth block with heartbeats of one second."""
    defaults = {"heartbeat": 1000, "peer_timeout": 10_000}
    return Birth(role=role, incarnation=incarnation, **(defaults | fields))


def head(born: Birth | None, *statuses: Status) -> bytes:
    """Lay out the first pages of a mailbox."""
    data = bytearray(wire.HEAD_LENGTH)
    if born is not None:
        block = wire.encode_birth(born)
        data[: len(block)] = block
    for status in statuses:
        at = wire.status_offset(status.beat)
        block = wire.encode_status(status)
        data[at : at + len(block)] = block
    return bytes(data)


def make_link() -> Link:
    """Make the knowledge of a dial side that has seen nobody."""
    return Link(birth(MINE, Role.DIAL))


def echoing(beat: int, echo: Incarnation | None = MINE, own: Incarnation = ITS) -> bytes:
    """Make the head of a peer."""
    return head(birth(own), Status(own, echo, beat))


def test_first_life_has_generation_one() -> None:
    assert first_generation(b"", b"", Role.DIAL) == 1
    assert first_generation(bytes(wire.HEAD_LENGTH), bytes(wire.HEAD_LENGTH), Role.DIAL) == 1


def test_next_life_is_above_the_own_file_and_the_peers_echo() -> None:
    own = head(birth(MINE, Role.DIAL))
    assert first_generation(own, b"", Role.DIAL) == 6
    assert first_generation(own, echoing(1, Incarnation(9, bytes(16))), Role.DIAL) == 10
    assert first_generation(b"", echoing(1, Incarnation(9, bytes(16))), Role.DIAL) == 10


def test_previous_life() -> None:
    lived = Status(MINE, ITS, 4)
    ended = Status(MINE, ITS, 5, closed=True)
    foreign = Status(ITS, MINE, 7)
    life = previous_life(head(birth(MINE, Role.DIAL), lived, foreign), Role.DIAL)
    assert life is not None
    assert not life.ended
    assert life.signs == (5, 4)
    life = previous_life(head(birth(MINE, Role.DIAL), lived, ended), Role.DIAL)
    assert life is not None
    assert life.ended
    assert previous_life(bytes(wire.HEAD_LENGTH), Role.DIAL) is None
    assert previous_life(b"", Role.DIAL) is None


def test_previous_life_of_another_version_counts_as_nothing() -> None:
    block = bytearray(wire.encode_birth(birth(MINE)))
    block[8] = 2
    block[-8:] = wire.xxh3_64_digest(bytes(block[:-8]))
    assert previous_life(bytes(block).ljust(wire.HEAD_LENGTH, b"\0"), Role.DIAL) is None


def test_newest_status_counts() -> None:
    old, new = Status(ITS, None, 7), Status(ITS, MINE, 8)
    found = wire.decode_statuses(head(None, old, new))
    assert newest_status(found, ITS) == new
    assert newest_status(found, MINE) is None


def test_meeting() -> None:
    link = make_link()
    assert link.observe(b"", 0.0) == []
    assert link.observe(echoing(1, None), 0.0) == [Meeting.NEW_PEER]
    assert not link.established
    assert link.observe(echoing(2), 0.0) == [Meeting.ESTABLISHED]
    assert link.established
    assert link.observe(echoing(3), 0.0) == []
    assert link.epoch == wire.epoch_of(MINE, ITS)


def test_meeting_at_first_sight() -> None:
    assert make_link().observe(echoing(4), 0.0) == [Meeting.NEW_PEER, Meeting.ESTABLISHED]


def test_no_epoch_without_a_peer() -> None:
    with pytest.raises(RuntimeError, match="no epoch"):
        _ = make_link().epoch


def test_both_roles_name_the_same_epoch() -> None:
    dial, listen = make_link(), Link(birth(ITS, Role.LISTEN))
    dial.observe(echoing(1), 0.0)
    listen.observe(head(birth(MINE, Role.DIAL)), 0.0)
    assert dial.epoch == listen.epoch


def test_older_views_change_nothing() -> None:
    link = make_link()
    link.observe(echoing(5), 0.0)
    older = Incarnation(2, b"o" * 16)
    twin = Incarnation(3, b"t" * 16)
    for view in (echoing(4, None), echoing(9, MINE, older), echoing(9, MINE, twin), b"", bytes(9)):
        assert link.observe(view, 0.0) == []
    assert link.established
    assert link.status is not None
    assert link.status.beat == 5


def test_a_status_counts_only_with_the_known_birth_block() -> None:
    link = make_link()
    link.observe(head(birth(ITS)), 0.0)
    assert link.observe(head(birth(ITS), Status(Incarnation(4, bytes(16)), MINE, 9)), 0.0) == []
    assert not link.established


def test_a_new_incarnation_must_echo_again() -> None:
    link = make_link()
    link.observe(echoing(5), 0.0)
    again = Incarnation(4, b"q" * 16)
    assert link.observe(echoing(1, None, again), 0.0) == [Meeting.NEW_PEER]
    assert not link.established
    assert link.observe(echoing(2, MINE, again), 0.0) == [Meeting.ESTABLISHED]


def test_a_killed_jobs_file_never_looks_alive() -> None:
    link = make_link()
    dead = Incarnation(4, b"d" * 16)
    assert link.observe(echoing(70, dead), 0.0) == [Meeting.NEW_PEER]
    assert not link.established


def test_a_higher_echo_before_meeting_is_a_clash_and_after_it_the_end() -> None:
    rival = Incarnation(5, b"r" * 16)
    link = make_link()
    assert link.observe(echoing(1, rival), 0.0) == [Meeting.NEW_PEER, Meeting.CLASH]
    assert link.rival == rival
    link = make_link()
    link.observe(echoing(1), 0.0)
    assert link.observe(echoing(2, rival), 0.0) == [Meeting.SUPERSEDED]


def test_a_clash_is_seen_in_the_status_of_any_incarnation() -> None:
    """Both sides used a number again, each knows the dead one of the other and ignores the new."""
    link = make_link()
    link.observe(head(birth(ITS)), 0.0)
    twin, rival = Incarnation(3, b"t" * 16), Incarnation(5, b"r" * 16)
    assert link.observe(echoing(1, rival, twin), 0.0) == [Meeting.CLASH]
    assert link.rival == rival


def test_a_clash_with_an_old_view_does_not_end_a_session() -> None:
    link = make_link()
    link.observe(echoing(5), 0.0)
    twin, rival = Incarnation(3, b"t" * 16), Incarnation(5, b"r" * 16)
    assert link.observe(echoing(9, rival, twin), 0.0) == []


def test_wrong_role() -> None:
    with pytest.raises(wire.ProtocolViolation, match="wrong role"):
        make_link().observe(head(birth(ITS, Role.DIAL)), 0.0)


def test_born_again() -> None:
    link = make_link()
    link.observe(echoing(5), 0.0)
    link.born_again(birth(Incarnation(6, b"n" * 16), Role.DIAL))
    assert not link.established
    assert link.observe(echoing(6), 0.0) == []
    assert link.observe(echoing(7, link.own.incarnation), 0.0) == [Meeting.ESTABLISHED]


def test_an_epoch_is_not_entered_twice() -> None:
    """A closed peer that goes on all the same would meet batches of its first session."""
    link = make_link()
    link.observe(echoing(5), 0.0)
    link.lost()
    assert link.observe(echoing(6), 0.0) == []
    assert not link.established


def test_silence_and_death() -> None:
    link = make_link()
    link.observe(echoing(1), 0.0)
    for second in (1, 2, 2.9):
        link.observe(echoing(1), second)
        assert not link.silent
    link.observe(echoing(1), 3.0)
    assert link.silent
    link.observe(echoing(2), 3.5)
    assert not link.silent
    for second in range(4, 16):
        link.observe(b"", second)
    assert link.dead


def test_a_stall_of_the_own_reads_is_not_the_peers_silence() -> None:
    link = make_link()
    link.observe(echoing(1), 0.0)
    link.observe(echoing(1), 500.0)
    assert link.silence == 1.0
    link.heard()
    assert link.silence == 0.0


def test_the_smaller_timeout_counts_and_zero_is_never() -> None:
    link = make_link()
    assert link.peer_timeout == 10
    link.observe(head(birth(ITS, peer_timeout=4000)), 0.0)
    assert link.peer_timeout == 4
    link = make_link()
    link.observe(head(birth(ITS, peer_timeout=0)), 0.0)
    assert link.peer_timeout == 10
    link = Link(birth(MINE, Role.DIAL, peer_timeout=0))
    link.observe(head(birth(ITS, peer_timeout=0)), 0.0)
    assert link.peer_timeout == float("inf")


def test_reason_of_a_closed_peer_is_carried() -> None:
    link = make_link()
    link.observe(echoing(1), 0.0)
    ended = Status(ITS, MINE, 2, closed=True, items=((ItemType.REASON, b"bye"),))
    assert link.observe(head(birth(ITS), ended), 0.0) == []
    assert link.status is not None
    assert link.status.closed
    assert link.status.text(ItemType.REASON) == "bye"


def test_a_closed_peer_is_not_met() -> None:
    link = make_link()
    ended = Status(ITS, MINE, 2, closed=True)
    assert link.observe(head(birth(ITS), ended), 0.0) == [Meeting.NEW_PEER]


def test_impossible_generations() -> None:
    """A hostile file must not bring a side to a generation that cannot be encoded."""
    last = Incarnation(2**64 - 1, bytes(16))
    assert first_generation(head(birth(last)), echoing(1, last), Role.DIAL) == 1
    with pytest.raises(wire.ProtocolViolation):
        make_link().observe(head(birth(last)), 0.0)
