"""The syntax of forwards and targets."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muxfs.forwards.spec import (
    Forward,
    Kind,
    Port,
    SpecError,
    Target,
    UnixPath,
    loopback_alike,
    parse_any_target,
    parse_forwards,
    parse_place,
    parse_target,
    parse_targets,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8888", Forward(Port(8888), Target("localhost", 8888))),
        ("8001:8000", Forward(Port(8001), Target("localhost", 8000))),
        ("0:8888", Forward(Port(0), Target("localhost", 8888))),
        ("1900:license:1900", Forward(Port(1900), Target("license", 1900))),
        ("127.0.0.1:1:db:2", Forward(Port(1, "127.0.0.1"), Target("db", 2))),
        ("*:1:db:2", Forward(Port(1, "*"), Target("db", 2))),
        (":1:db:2", Forward(Port(1, "*"), Target("db", 2))),
        ("[::1]:1:[fe80::1]:2", Forward(Port(1, "::1"), Target("fe80::1", 2))),
        ("1:[fe80::1%eth0]:2", Forward(Port(1), Target("fe80::1%eth0", 2))),
        ("1:bücher.example:2", Forward(Port(1), Target("bücher.example", 2))),
        ("[127.0.0.1]:1:[db]:2", Forward(Port(1, "127.0.0.1"), Target("db", 2))),  # as ssh -J
        ("8080:[/run/a:b]", Forward(Port(8080), UnixPath("/run/a:b"))),
        ("8080:/run/app", Forward(Port(8080), UnixPath("/run/app"))),
        ("*:8080:/run/app", Forward(Port(8080, "*"), UnixPath("/run/app"))),
        ("/run/a:/run/b", Forward(UnixPath("/run/a"), UnixPath("/run/b"))),
        ("/run/a:db:2", Forward(UnixPath("/run/a"), Target("db", 2))),
        ("/run/a:2", Forward(UnixPath("/run/a"), Target("localhost", 2))),
        (r"/a\:b\,c\\:2", Forward(UnixPath("/a:b,c\\"), Target("localhost", 2))),
    ],
)
def test_forward(text: str, expected: Forward) -> None:
    assert parse_forwards(text) == (expected,)
    assert parse_forwards(text, Kind.LOCAL) == (expected,)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Kind.REMOTE, "8001:8000", Forward(Port(8001), Target("localhost", 8000), Kind.REMOTE)),
        (Kind.REMOTE, "8001", Forward(Port(8001), None, Kind.REMOTE)),
        (Kind.REMOTE, "*:8001", Forward(Port(8001, "*"), None, Kind.REMOTE)),
        (Kind.REMOTE, "/s", Forward(UnixPath("/s"), None, Kind.REMOTE)),
        (Kind.REMOTE, "/s:/t", Forward(UnixPath("/s"), UnixPath("/t"), Kind.REMOTE)),
        (Kind.DYNAMIC, "1080", Forward(Port(1080), None, Kind.DYNAMIC)),
        (Kind.DYNAMIC, "[::1]:1080", Forward(Port(1080, "::1"), None, Kind.DYNAMIC)),
        (Kind.HTTP, ":3128", Forward(Port(3128, "*"), None, Kind.HTTP)),
        (Kind.UDP, "53:dns:53", Forward(Port(53), Target("dns", 53), Kind.UDP)),
        (Kind.UDP, "53", Forward(Port(53), Target("localhost", 53), Kind.UDP)),
    ],
)
def test_options(kind: Kind, text: str, expected: Forward) -> None:
    assert parse_forwards(text, kind) == (expected,)


def test_lists_with_letters() -> None:
    """As slurm-spank-stunnel writes them."""
    found = parse_forwards("L1900:license:1900,R8001:8000,8889:8888,R1080,D*:1081,U53:dns:53")
    assert [f.option for f in found] == [
        "-L 1900:license:1900",
        "-R 8001:localhost:8000",
        "-L 8889:localhost:8888",
        "-R 1080",
        "-D *:1081",
        "-U 53:dns:53",
    ]


def test_letters_are_not_for_options() -> None:
    with pytest.raises(SpecError, match="'R8001' is not a port number"):
        parse_forwards("R8001:8000", Kind.LOCAL)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Kind.DYNAMIC, "1:2:3", "it must be [BIND:]PORT or /SOCKET"),
        (Kind.DYNAMIC, "", "an empty forward"),
        (Kind.UDP, "/s:db:1", "Unix sockets carry no datagrams"),
        (Kind.UDP, "1:/s", "Unix sockets carry no datagrams"),
        (Kind.LOCAL, "/s", "it must be PORT, PORT:PORT"),
        (Kind.LOCAL, "relative/s:1", "not an absolute path"),
        (Kind.LOCAL, "/a/../s:1", "not an absolute path in its shortest form"),
        (Kind.LOCAL, "//s:1", "not an absolute path in its shortest form"),
        (Kind.LOCAL, "/" + "s" * 107 + ":1", "at most 107 bytes"),
        (Kind.LOCAL, "/a\x1bb:1", "not an absolute path"),
        (Kind.LOCAL, "a\\b:1:c:2", "'a\\\\b' is not a host name"),
        (Kind.LOCAL, "1:a*:2", "is not a host name"),
    ],
)
def test_wrong_options(kind: Kind, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_forwards(text, kind)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


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
        ("1:a/b:2", "is not an absolute path"),
        ("1:" + "a" * 254 + ":2", "is not a host name"),
        ("1:a\x1b[31m:2", "a bracket stands where none can"),
        ("1:a\x07:2", "is not a host name"),
        ("1:a\udc80:2", "is not a host name"),
        ("1:::1:2", "IPv6 addresses need brackets"),
        ("1:[::1:2", "a bracket stands where none can"),
        ("1:[a b]:2", "'a b' is not a host name"),
        ("1:[]:2", "the host is missing"),
        ("1:[a:b]:2", "[a:b] is not an IPv6 address"),
        ("1:[\x1b:]:2", "[\\x1b:] is not an IPv6 address"),
        ("1:[\x1b]:2", "'\\x1b' is not a host name"),
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


def test_targets_as_ssh_writes_them_for_a_proxy() -> None:
    """`[%h]:%p` in a ProxyCommand; clients of proxies and far sides have one form only."""
    for host in ("localhost", "127.0.0.1", "::1"):
        assert parse_any_target(f"[{host}]:22") == Target(host, 22)
    with pytest.raises(SpecError, match="is not an IPv6 address"):
        parse_target("[localhost]:22")


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "a:0", ":1", "[::1]", "::1:80"])
def test_wrong_targets(text: str) -> None:
    with pytest.raises(SpecError, match="PORT or HOST:PORT"):
        parse_target(text)


ports = st.integers(1, 65535)
names = st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True)
addresses = st.ip_addresses().map(str)
hosts = names | addresses
targets = st.builds(Target, hosts, ports)
paths = (
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=20)
    .map(lambda text: "/" + text.replace("/", "") + "x")
    .map(UnixPath)
)
places = st.builds(Port, st.integers(0, 65535), st.none() | st.just("*") | hosts) | paths
forwards = st.builds(
    Forward, places, targets | paths, st.sampled_from([Kind.LOCAL, Kind.REMOTE])
) | st.builds(Forward, places, st.none(), st.sampled_from([Kind.DYNAMIC, Kind.HTTP, Kind.REMOTE]))


@given(forwards)
def test_forward_round_trip(forward: Forward) -> None:
    assert parse_forwards(str(forward), forward.kind) == (forward,)


@given(paths)
def test_path_round_trip(path: UnixPath) -> None:
    assert parse_any_target(str(path)) == parse_any_target(path.short) == parse_place(str(path))


@given(targets)
def test_target_round_trip(target: Target) -> None:
    assert parse_target(str(target)) == target
    assert parse_target(target.short) == target


@given(st.text(max_size=40))
@example("U1")
@example("R*:1")
def test_any_text_parses_or_is_explained(text: str) -> None:
    for parse in (parse_forwards, parse_targets):
        words, parsed = "", None
        try:
            parsed = parse(text)
        except SpecError as error:
            words = str(error)
        assert words.isprintable()
        assert parsed is None or parsed == parse(",".join(map(as_written, parsed)))


def as_written(item: object) -> str:
    """Write it as a list has it, which needs a letter for what is no local forward."""
    other = isinstance(item, Forward) and item.kind is not Kind.LOCAL
    return f"{item.kind.value[1]}{item}" if other else str(item)


@given(st.ip_addresses())
def test_spellings_of_addresses_are_alike(address: ipaddress.IPv6Address) -> None:
    assert loopback_alike(address.exploded) == loopback_alike(str(address))


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1"])
def test_names_of_the_loopback_are_alike(host: str) -> None:
    assert loopback_alike(host) == "localhost"


@pytest.mark.parametrize("host", ["127.0.0.2", "0.0.0.0", "localhost.", "::", "127.1"])
def test_what_is_not_the_loopback(host: str) -> None:
    assert loopback_alike(host) != "localhost"
