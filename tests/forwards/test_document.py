"""docs/forwards.md against the code: forms, patterns, replies and limits."""

from __future__ import annotations

import re

import pytest

from muxfs.core.wire import DEFAULT_MAX_STREAMS, Code
from muxfs.endpoint.endpoint import RESERVED
from muxfs.forwards import (
    answers,
    associations,
    carrier,
    datagrams,
    dialer,
    http_proxy,
    incoming,
    lending,
    proxy,
    socks,
    socks_udp,
    spec,
)
from muxfs.forwards.patterns import parse_allow, parse_allow_listen
from muxfs.forwards.socks import Command, SocksRequest
from muxfs.forwards.spec import Kind, parse_forwards
from tests.vectors.document import PATH, tables

TEXT = (PATH.parent / "docs" / "forwards.md").read_text()
WORDS = " ".join(TEXT.split())
TABLES = {tuple(found[0]): found for found in tables(TEXT)}


def rows(*columns: str) -> list[dict[str, str]]:
    return TABLES[columns]


def test_every_option_is_there() -> None:
    found = {
        row["option"].split()[0].strip("`") for row in rows("option", "listens", "connects", "for")
    }
    assert found == {kind.value for kind in Kind}


@pytest.mark.parametrize(
    "text", re.findall(r"`([LRDU]?\d[^ `]*|[LRDU]\d+[^ `]*)`", TEXT.split("## Places")[0])
)
def test_examples_of_lists(text: str) -> None:
    assert parse_forwards(text)


@pytest.mark.parametrize(
    "text",
    [
        text
        for row in rows("pattern", "is for")
        for text in re.findall(r"`([^`]*)`", row["pattern"])
    ],
)
def test_examples_of_patterns(text: str) -> None:
    if text.startswith("--allow-listen "):
        parse_allow_listen(text.split()[1].strip("'"))
    else:
        parse_allow(text)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("connection refused", Code.REFUSED),
        ("no route, host down, unknown name", Code.UNREACHABLE),
        ("no route, host down, unknown name", Code.RESOLVE),
        ("no answer in time", Code.TIMEOUT),
        ("not allowed", Code.PROHIBITED),
        ("a limit, a full table", Code.LIMIT),
        ("something else, or no session", Code.INTERNAL),
    ],
)
def test_replies(said: str, code: Code) -> None:
    (row,) = (
        row
        for row in rows("what happened", "SOCKS 5", "SOCKS 4", "HTTP")
        if row["what happened"] == said
    )
    target = spec.Target("db", 1)
    assert SocksRequest(5, Command.CONNECT, target).refused(code, "")[1] == int(row["SOCKS 5"][0])
    assert SocksRequest(4, Command.CONNECT, target).refused(code, "")[1] == int(row["SOCKS 4"])
    answer = http_proxy.HttpRequest(target).refused(code, "")
    assert answer.split()[1].decode() == row["HTTP"][:3]


def test_limits() -> None:
    limits = {row["what"]: row["at most"] for row in rows("what", "at most")}

    def says(what: str, *numbers: float) -> None:
        found = [float(n) for n in re.findall(r"\d+", limits.pop(what))]
        assert [n for n in numbers if n not in found] == []

    says("connections of an end", RESERVED)
    says("connections of a session from either side", DEFAULT_MAX_STREAMS)
    says("clients that wait for a session", carrier.MAX_HELD)
    says("targets dialled at once", incoming.MAX_DIALS)
    says("listeners for the other side", lending.MAX_LISTENERS)
    says("associations for the other side", incoming.MAX_DATAGRAM_STREAMS)
    says("associations of a UDP port", associations.MAX_ASSOCIATIONS)
    says("answer of the other side to a connection", answers.GRACE)
    greeting = proxy.GREETING_TIME, socks.MAX_REQUEST >> 10, http_proxy.MAX_HEAD >> 10
    says("greeting of a proxy's client", *greeting)
    says("name of a host, path of a socket", spec.MAX_HOST, spec.MAX_PATH)
    assert not limits
    assert f"up to {socks_udp.MAX_TARGETS} targets at once" in WORDS
    assert f"A port has up to {associations.MAX_ASSOCIATIONS} of them" in WORDS
    assert f"after {dialer.STAGGER} s beside" in WORDS
    assert datagrams.IDLE_TIME == 120
