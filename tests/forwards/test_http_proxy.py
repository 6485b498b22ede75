"""The server's part of an HTTP proxy: CONNECT, what is answered, hostile input."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.core.wire import Code
from muxfs.forwards.greeting import Unserved
from muxfs.forwards.http_proxy import MAX_HEAD, HttpGreeting
from muxfs.forwards.spec import Target

from .harness import FUZZ

REQUEST = b"CONNECT db.example:443 HTTP/1.1\r\nHost: db.example:443\r\nProxy-Auth: x\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"db.example:443", Target("db.example", 443)),
        (b"127.0.0.1:80", Target("127.0.0.1", 80)),
        (b"[2001:db8::7]:443", Target("2001:db8::7", 443)),
    ],
)
def test_connect(target: bytes, expected: Target) -> None:
    greeting = HttpGreeting()
    assert greeting.receive(b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n") == b""
    assert greeting.request is None
    assert greeting.receive(b"\r\nearly") == b""
    assert greeting.request is not None
    assert greeting.request.target == expected
    assert greeting.rest == b"early"
    assert greeting.request.granted("x") == b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.REFUSED, 502),
        (Code.UNREACHABLE, 502),
        (Code.RESOLVE, 502),
        (Code.TIMEOUT, 504),
        (Code.PROHIBITED, 403),
        (Code.LIMIT, 503),
        (Code.INTERNAL, 502),
        (Code.PEER_RESTARTED, 502),
    ],
)
def test_codes(code: Code, status: int) -> None:
    greeting = HttpGreeting()
    greeting.receive(REQUEST)
    assert greeting.request is not None
    answer = greeting.request.refused(code, "because\x1b[2J\r\nX-Evil: 1")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Evil" not in head
    assert body == b"muxfs: because\\x1b[2J\\r\\nX-Evil: 1\n"


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 405, "serves CONNECT only"),
        (b"POST http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 405, "Allow: CONNECT\r\n"),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "'a' is not HOST:PORT"),
        (b"CONNECT a:0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "'0' is not a port number"),
        (b"CONNECT u@a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "is not a host name"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host"),
        (b"\x05\x01\x00\r\n\r\n", 400, "illegal request line"),
        (b"CONNECT \xfc:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "muxfs: illegal request line\n"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD, 431, "too long"),
    ],
)
def test_what_is_not_served(data: bytes, status: int, said: str) -> None:
    greeting = HttpGreeting()
    with pytest.raises(Unserved) as caught:
        greeting.receive(data)
    assert caught.value.answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert said in caught.value.answer.decode()


@given(st.lists(st.integers(0, len(REQUEST)), max_size=6))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    greeting = HttpGreeting()
    edges = [0, *sorted(cuts), len(REQUEST)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            greeting.receive(REQUEST[start:end])
    assert greeting.request is not None
    assert greeting.request.target == Target("db.example", 443)


@FUZZ
@given(
    st.binary(min_size=1, max_size=200)
    | st.tuples(st.integers(0, len(REQUEST) - 1), st.binary(max_size=5)).map(
        lambda change: REQUEST[: change[0]] + change[1] + REQUEST[change[0] + 1 :]
    )
)
def test_any_bytes_end_in_a_request_or_an_answer_or_are_waited_for(data: bytes) -> None:
    greeting = HttpGreeting()
    answer = b"HTTP/1.1 "
    try:
        greeting.receive(data)
    except Unserved as error:
        answer = error.answer
    assert answer.startswith(b"HTTP/1.1 ")
