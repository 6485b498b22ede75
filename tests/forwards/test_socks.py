"""The server's part of SOCKS, byte by byte: what is asked, what is answered, hostile input."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.core.wire import Code
from muxfs.forwards.greeting import Unserved
from muxfs.forwards.socks import (
    MAX_REQUEST,
    Command,
    SocksGreeting,
    SocksRequest,
    read_datagram,
    write_datagram,
)
from muxfs.forwards.spec import Target

from .harness import FUZZ

REFUSED4 = bytes([0, 0x5B]) + bytes(6)
HELLO5 = bytes([5, 1, 0])


def failure(reply: int) -> bytes:
    return bytes([5, reply, 0, 1]) + bytes(6)


def negotiate(data: bytes) -> tuple[SocksGreeting, bytes]:
    greeting = SocksGreeting()
    return greeting, greeting.receive(data)


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (b"\x04\x01\x1f\x90\x7f\x00\x00\x01\x00", Target("127.0.0.1", 8080)),
        (b"\x04\x01\x1f\x90\x7f\x00\x00\x01ann\x00", Target("127.0.0.1", 8080)),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01ann\x00db.example\x00", Target("db.example", 80)),
        (b"\x04\x01\x00\x50\x00\x00\x00\xff\x00localhost\x00", Target("localhost", 80)),
    ],
)
def test_version_4(data: bytes, target: Target) -> None:
    greeting, answer = negotiate(data + b"early")
    assert answer == b""
    assert greeting.request == SocksRequest(4, Command.CONNECT, target)
    assert greeting.rest == b"early"
    assert greeting.request.granted("10.0.0.1:5") == b"\x00\x5a" + bytes(6)
    assert greeting.request.refused(Code.REFUSED, "") == REFUSED4


@pytest.mark.parametrize(
    ("address", "target"),
    [
        (b"\x01\x7f\x00\x00\x01", "127.0.0.1"),
        (b"\x03\x0adb.example", "db.example"),
        (b"\x04" + ipaddress.IPv6Address("2001:db8::7").packed, "2001:db8::7"),
        (b"\x03\x07b\xc3\xbccher", "bücher"),
    ],
)
def test_version_5(address: bytes, target: str) -> None:
    data = b"\x05\x02\x02\x00" + b"\x05\x01\x00" + address + b"\x01\xbb" + b"early"
    greeting, answer = negotiate(data)
    assert answer == b"\x05\x00"
    assert greeting.request == SocksRequest(5, Command.CONNECT, Target(target, 443))
    assert greeting.rest == b"early"


@pytest.mark.parametrize(
    ("bound", "encoded"),
    [
        ("10.0.0.1:5000", b"\x01\x0a\x00\x00\x01\x13\x88"),
        ("[2001:db8::7]:5000", b"\x04" + ipaddress.IPv6Address("2001:db8::7").packed + b"\x13\x88"),
        ("[fe80::1%eth0]:5000", b"\x04" + ipaddress.IPv6Address("fe80::1").packed + b"\x13\x88"),
        ("", b"\x01" + bytes(6)),
        ("unix:/run/x", b"\x01" + bytes(6)),
        ("\x1b[2J:1", b"\x01" + bytes(6)),
    ],
)
def test_the_address_of_the_far_side(bound: str, encoded: bytes) -> None:
    """Text of the far side, which may be anything."""
    request = SocksRequest(5, Command.CONNECT, Target("db", 1))
    assert request.granted(bound) == b"\x05\x00\x00" + encoded


@pytest.mark.parametrize(
    ("code", "reply"),
    [
        (Code.REFUSED, 5),
        (Code.UNREACHABLE, 4),
        (Code.RESOLVE, 4),
        (Code.TIMEOUT, 6),
        (Code.PROHIBITED, 2),
        (Code.LIMIT, 1),
        (Code.INTERNAL, 1),
        (Code.PEER_RESTARTED, 1),
    ],
)
def test_codes(code: Code, reply: int) -> None:
    request = SocksRequest(5, Command.CONNECT, Target("db", 1))
    assert request.refused(code, "") == failure(reply)


def test_udp_associate() -> None:
    greeting, _ = negotiate(HELLO5 + b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
    assert greeting.request == SocksRequest(5, Command.UDP_ASSOCIATE, None)
    greeting, _ = negotiate(HELLO5 + b"\x05\x03\x00\x01\x7f\x00\x00\x01\x13\x88")
    assert greeting.request == SocksRequest(5, Command.UDP_ASSOCIATE, Target("127.0.0.1", 5000))


@pytest.mark.parametrize(
    ("data", "answer", "said"),
    [
        (b"GET / HTTP/1.1", b"", "not SOCKS 4 or 5"),
        (b"\x00", b"", "not SOCKS 4 or 5"),
        (b"\x04\x02\x00\x50\x7f\x00\x00\x01\x00", REFUSED4, "command 2 is not served"),
        (b"\x04\x01\x00\x00\x7f\x00\x00\x01\x00", REFUSED4, "'0' is not a port number"),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01" + b"x" * 256, REFUSED4, "a text is too long"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a\x1bb\x00", REFUSED4, "is not a host name"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\xff\x00", REFUSED4, "not UTF-8"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", REFUSED4, "the host is missing"),
        (b"\x05\x01\x02", b"\x05\xff", "insists on a method"),
        (b"\x05\x00", b"\x05\xff", "insists on a method"),
        (HELLO5 + b"\x04\x01\x00\x01", failure(1), "not SOCKS 5"),
        (HELLO5 + b"\x05\x02\x00\x01" + bytes(6), failure(7), "command 2 is not served"),
        (HELLO5 + b"\x05\x01\x00\x02", failure(8), "type 2 is not served"),
        (HELLO5 + b"\x05\x01\x00\x03\x00", failure(8), "type 3 is not served"),
        (HELLO5 + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", failure(1), "not a port number"),
        (HELLO5 + b"\x05\x01\x00\x03\x03a/b\x00\x50", failure(1), "not an absolute path"),
    ],
)
def test_what_is_not_served(data: bytes, answer: bytes, said: str) -> None:
    greeting = SocksGreeting()
    with pytest.raises(Unserved) as caught:
        greeting.receive(data)
    if data.startswith(HELLO5):
        answer = b"\x05\x00" + answer  # what the first part was answered
    assert caught.value.answer == answer
    assert said in str(caught.value)


requests = st.sampled_from(
    [
        b"\x04\x01\x1f\x90\x7f\x00\x00\x01ann\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01ann\x00db.example\x00",
        HELLO5 + b"\x05\x01\x00\x03\x0adb.example\x01\xbb",
        HELLO5 + b"\x05\x01\x00\x04" + bytes(range(16)) + b"\x01\xbb",
    ]
)


@given(requests, st.lists(st.integers(0, 60), max_size=8))
def test_the_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole, answer = negotiate(data + b"rest")
    greeting, said = SocksGreeting(), b""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        assert greeting.request is None or start == len(data)
        said += greeting.receive(data[start:end])
    assert (greeting.request, said) == (whole.request, answer)


@given(requests)
def test_a_truncated_request_is_waited_for(data: bytes) -> None:
    for end in range(len(data)):
        greeting, _ = negotiate(data[:end])
        assert greeting.request is None


@FUZZ
@given(st.lists(st.binary(max_size=400), max_size=20) | requests.map(lambda data: [data]))
def test_any_bytes_end_in_a_request_or_an_answer_or_are_waited_for(pieces: list[bytes]) -> None:
    greeting = SocksGreeting()
    try:
        for piece in pieces:
            assert len(greeting.receive(piece)) <= 2
            assert len(greeting._buffer) <= MAX_REQUEST
    except Unserved as error:
        answer = error.answer
        assert len(answer) <= 12
    if greeting.request is not None and greeting.request.target is not None:
        assert 1 <= greeting.request.target.port <= 65535


# Datagrams

HOSTS = st.sampled_from(["127.0.0.1", "2001:db8::7", "db.example"])
TARGETS = st.builds(Target, HOSTS, st.integers(1, 65535))


@given(TARGETS, st.binary(max_size=100))
def test_datagrams_round_trip(target: Target, payload: bytes) -> None:
    assert read_datagram(write_datagram(target, payload)) == (target, payload)


@given(TARGETS, st.integers(1, 255))
def test_fragments_are_dropped(target: Target, fragment: int) -> None:
    data = bytearray(write_datagram(target, b"x"))
    data[2] = fragment
    assert read_datagram(bytes(data)) is None


@given(TARGETS)
def test_truncated_datagrams_are_dropped(target: Target) -> None:
    data = write_datagram(target, b"")
    for end in range(len(data)):
        assert read_datagram(data[:end]) is None


@FUZZ
@given(st.binary(max_size=100).map(lambda data: b"\0\0\0" + data))
def test_any_datagram_is_read_or_dropped(data: bytes) -> None:
    found = read_datagram(data)
    assert found is None or data.endswith(found[1])
