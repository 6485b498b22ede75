"""What an OPEN says: protocol.md, section 16, against the code; hostile texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.core import wire
from muxfs.forwards import datagrams, spec, targets
from muxfs.forwards.spec import Port, SpecError, Target, UnixPath
from muxfs.forwards.targets import Asked, Datagrams, Forwarded, Listen, Service, decode, encode
from tests.vectors.document import PATH, section, table

from .harness import FUZZ

SECTION = 16
DOCUMENT = PATH.read_text()
EXAMPLES = [
    row["target"].strip("`") for row in table(DOCUMENT, SECTION, "target", "what it asks for")
]


def test_examples_of_the_document() -> None:
    assert [decode(text) for text in EXAMPLES] == [
        Target("localhost", 8888),
        Target("2001:db8::7", 443),
        Target("udp", 80),
        UnixPath("/run/app.sock"),
        Datagrams(Target("dns.example.org", 53)),
        Listen(1, Service.PLAIN, Port(8080)),
        Listen(2, Service.PLAIN, Port(0, "*")),
        Listen(3, Service.PLAIN, UnixPath("/run/lent.sock")),
        Listen(4, Service.SOCKS, Port(1080, "localhost")),
        Forwarded(1),
        Forwarded(4, Target("db", 5432)),
        Forwarded(4, Datagrams(Target("dns", 53))),
    ]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_round_trip(text: str) -> None:
    assert encode(decode(text)) == text


def test_constants_of_the_document() -> None:
    words = " ".join(section(DOCUMENT, SECTION).split())
    assert f"a name has at most {spec.MAX_HOST} bytes" in words.lower()
    assert f"a path has at most {spec.MAX_PATH} bytes" in words
    assert f"0 to {targets.MAX_NUMBER}" in words
    assert f"idle for {datagrams.IDLE_TIME:.0f} seconds" in words
    assert "length in 2 bytes" in words
    for service in Service:
        assert f'"{service.value}"' in words
    for character in ":,/@*?[]\\":
        with pytest.raises(SpecError):
            decode(f"a{character}b:1")


@pytest.mark.parametrize(
    ("text", "host"), [("listen:80", "listen"), ("forwarded:80", "forwarded"), ("unix:80", "unix")]
)
def test_hosts_with_names_of_kinds(text: str, host: str) -> None:
    assert decode(text) == Target(host, 80)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "/run/x",
        "localhost:0",
        "a:1,b:2",
        "unix:",
        "unix:run",
        "unix:/a/../b",
        "unix://a",
        "unix:/",
        "unix:/" + "x" * 107,
        "unix:/a\x1b",
        "udp:a:0",
        "udp::53",
        "udp:/a:53",
        "listen:1:plain",
        "listen:1:plain:",
        "listen:x:plain:1",
        "listen:-1:plain:1",
        "listen:4294967296:plain:1",
        "listen:1:http:1",
        "listen:1:plain:/run/x",
        "listen:1:plain:unix:run",
        "listen:1:plain:a:b:1",
        "forwarded::",
        "forwarded:1:unix:/x",
        "forwarded:1:forwarded:1:",
        "forwarded:٣:",
    ],
)
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        decode(text)
    assert str(caught.value).isprintable()


hosts = st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True) | st.ip_addresses().map(str)
tcp = st.builds(Target, hosts, st.integers(1, 65535))
udp = st.builds(Datagrams, tcp)
unix = st.from_regex(r"/[a-z:, ]{1,20}", fullmatch=True).map(UnixPath)
numbers = st.integers(0, targets.MAX_NUMBER)
places = st.builds(Port, st.integers(0, 65535), st.none() | st.just("*") | hosts) | unix
asked = (
    tcp
    | udp
    | unix
    | st.builds(Listen, numbers, st.sampled_from(Service), places)
    | st.builds(Forwarded, numbers, st.none() | tcp | udp)
)


@given(asked)
def test_round_trip(one: Asked) -> None:
    text = encode(one)
    assert len(text.encode()) <= wire.MAX_TARGET
    assert decode(text) == one


@FUZZ
@given(
    st.text(max_size=60)
    | st.sampled_from(EXAMPLES).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.characters()).map(
            lambda at: text[: at[0]] + at[1] + text[at[0] :]
        )
    )
)
def test_any_text_is_understood_or_explained(text: str) -> None:
    found, words = None, ""
    try:
        found = decode(text)
    except SpecError as error:
        words = str(error)
    assert words.isprintable()
    assert found is None or decode(encode(found)) == found
