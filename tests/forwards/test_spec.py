"""The syntax of forwards and targets."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.forwards.spec import (
    Forward,
    SpecError,
    Target,
    loopback_alike,
    parse_forwards,
    parse_target,
    parse_targets,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8888", Forward(8888, Target("localhost", 8888))),
        ("8001:8000", Forward(8001, Target("localhost", 8000))),
        ("0:8888", Forward(0, Target("localhost", 8888))),
        ("1900:license:1900", Forward(1900, Target("license", 1900))),
        ("127.0.0.1:1:db:2", Forward(1, Target("db", 2), "127.0.0.1")),
        ("*:1:db:2", Forward(1, Target("db", 2), "*")),
        (":1:db:2", Forward(1, Target("db", 2), "*")),
        ("[::1]:1:[fe80::1]:2", Forward(1, Target("fe80::1", 2), "::1")),
        ("1:[fe80::1%eth0]:2", Forward(1, Target("fe80::1%eth0", 2))),
        ("1:bücher.example:2", Forward(1, Target("bücher.example", 2))),
    ],
)
def test_forward(text: str, expected: Forward) -> None:
    assert parse_forwards(text) == (expected,)


def test_lists() -> None:
    assert [str(f) for f in parse_forwards("8001:8000,8889:8888")] == [
        "8001:localhost:8000",
        "8889:localhost:8888",
    ]
    assert parse_targets("8888, db:5432") == (Target("localhost", 8888), Target("db", 5432))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty forward"),
        ("1,,2", "an empty forward"),
        ("0", "'0' is not a port number from 1"),
        ("65536", "'65536' is not a port number"),
        ("-1", "'-1' is not a port number"),
        ("٣", "'٣' is not a port number"),
        ("1_0", "is not a port number"),
        ("1:2:", "is not a port number"),
        ("1::2", "the host is missing"),
        ("1:*:2", "the host is missing"),
        ("1:a b:2", "'a b' is not a host name"),
        ("1:a/b:2", "is not a host name"),
        ("1:" + "a" * 254 + ":2", "is not a host name"),
        ("1:a\x1b[31m:2", "a bracket stands where none can"),
        ("1:a\x07:2", "is not a host name"),
        ("1:a\udc80:2", "is not a host name"),
        ("1:::1:2", "IPv6 addresses need brackets"),
        ("1:[::1:2", "a bracket stands where none can"),
        ("1:[x]:2", "[x] is not an IPv6 address"),
        ("1:[127.0.0.1]:2", "is not an IPv6 address"),
        ("[::1]8:1:a:2", "a bracket stands where none can"),
        ("a:b:c:d:e", "IPv6 addresses need brackets"),
    ],
)
def test_wrong_forwards(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_forwards(text)
    words = str(caught.value)
    assert said in words
    assert words.isprintable()
    assert "PORT:HOST:PORT" in words


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "a:0", ":1", "[::1]", "::1:80"])
def test_wrong_targets(text: str) -> None:
    with pytest.raises(SpecError, match="PORT or HOST:PORT"):
        parse_target(text)


ports = st.integers(1, 65535)
names = st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True)
addresses = st.ip_addresses().map(str)
hosts = names | addresses
targets = st.builds(Target, hosts, ports)
forwards = st.builds(Forward, st.integers(0, 65535), targets, st.none() | st.just("*") | hosts)


@given(forwards)
def test_forward_round_trip(forward: Forward) -> None:
    assert parse_forwards(str(forward)) == (forward,)


@given(targets)
def test_target_round_trip(target: Target) -> None:
    assert parse_target(str(target)) == target
    assert parse_target(target.short) == target


@given(st.text(max_size=40))
def test_any_text_parses_or_is_explained(text: str) -> None:
    for parse in (parse_forwards, parse_targets):
        words, parsed = "", None
        try:
            parsed = parse(text)
        except SpecError as error:
            words = str(error)
        assert words.isprintable()
        assert parsed is None or parsed == parse(",".join(map(str, parsed)))


@given(st.ip_addresses())
def test_spellings_of_addresses_are_alike(address: ipaddress.IPv6Address) -> None:
    assert loopback_alike(address.exploded) == loopback_alike(str(address))


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1"])
def test_names_of_the_loopback_are_alike(host: str) -> None:
    assert loopback_alike(host) == "localhost"


@pytest.mark.parametrize("host", ["127.0.0.2", "0.0.0.0", "localhost.", "::", "127.1"])
def test_what_is_not_the_loopback(host: str) -> None:
    assert loopback_alike(host) != "localhost"
