"""What the far side may ask for: patterns, policies, refusals, and what is dialled of a name."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path

import pytest
import trio

from muxfs.core.wire import Code
from muxfs.forwards.consent import EVERYTHING, FREE_LOOPBACK_PORTS, LOCAL_PORTS, Policy, Refusal
from muxfs.forwards.dialer import dial, explain, open_datagrams
from muxfs.forwards.patterns import (
    exactly,
    parse_address,
    parse_allow,
    parse_allow_listen,
    parse_allows,
)
from muxfs.forwards.spec import SpecError, Target, UnixPath, parse_any_target, parse_place
from muxfs.forwards.tcp import Connection


def allowing(*texts: str) -> Policy:
    return Policy(tuple(map(parse_allow, texts)))


@pytest.mark.parametrize(
    ("pattern", "asked", "allowed"),
    [
        ("*:*", "anything.example:1", True),
        ("*:*", "127.0.0.1:22", True),
        ("*:*", "/run/x", False),
        ("*:443", "a:443", True),
        ("*:443", "a:444", False),
        ("8888", "localhost:8888", True),
        ("localhost:8888", "127.0.0.1:8888", True),
        ("localhost:8888", "[::1]:8888", True),
        ("localhost:8888", "[::ffff:127.0.0.1]:8888", False),
        ("localhost:8888", "127.0.0.2:8888", False),
        ("localhost:8888", "0.0.0.0:8888", False),
        ("localhost:8000-8999", "localhost:8999", True),
        ("localhost:8000-8999", "localhost:9000", False),
        ("db:5432", "DB.:5432", True),
        ("db:5432", "db.example:5432", False),
        ("strasse.example:1", "straße.example:1", False),  # two names, of two owners
        ("*.strasse.example:1", "a.straße.example:1", False),
        ("*.example.org:443", "a.b.Example.org:443", True),
        ("*.example.org:443", "example.org:443", False),
        ("*.example.org:443", "evil-example.org:443", False),
        ("*.example.org.:443", "a.example.org:443", True),
        ("fe*:80", "[fe80::1]:80", False),
        ("*a*:80", "0x0a000005:80", False),  # which resolvers take for an address
        ("node1?:22", "node17:22", True),
        ("node1?:22", "node177:22", False),
        ("10.0.0.0/8:80", "10.1.2.3:80", True),
        ("10.0.0.0/8:80", "11.1.2.3:80", False),
        ("10.0.0.0/8:80", "[::ffff:10.1.2.3]:80", True),
        ("10.0.0.0/8:80", "10.5:80", True),
        ("11.0.0.0/8:80", "10.5:80", False),
        ("10.0.0.0/8:80", "some.name:80", True),  # what it resolves to decides
        ("10.0.0.0/8:80", "some.name:81", False),
        ("[fd00::]/8:*", "[fd12::1]:5", True),
        ("[fd00::/8]:*", "[fe12::1]:5", False),
        ("192.0.2.7:80", "192.0.2.7:80", True),
        ("192.0.2.7:80", "192.0.2.8:80", False),
        ("[fe80::1]:1", "[fe80:0::1]:1", True),
        ("[fe80::1%eth0]:1", "[fe80::1%eth1]:1", False),
        ("[fe80::/10]:1", "[fe80::1%eth1]:1", True),
        ("/run/*.sock", "/run/a.sock", True),
        ("/run/*.sock", "/run/a/b.sock", False),
        ("/run/a?", "/run/ab", True),
        ("/run/a", "localhost:1", False),
        (r"/run/a\,b", r"/run/a\,b", True),
        (r"/run/\*", "/run/*", True),
        (r"/run/\*", "/run/a", False),
        (r"/run/a\\b", r"/run/a\\b", True),
        ("/run/[ab]", "/run/a", False),
        ("/run/[ab]", r"/run/\[ab\]", True),
        (r"/run/\[!x]*", r"/run/\[!x\]y", True),
    ],
)
def test_patterns(pattern: str, asked: str, allowed: bool) -> None:
    refusal = allowing(pattern).refusal(parse_any_target(asked))
    assert (refusal is None) is allowed


@pytest.mark.parametrize(
    "text", ["db:5432", "[fe80::1]:80", "/run/a*b[c]?", "/run/[[]", "/run/a,b\\c:", "127.0.0.1:1"]
)
def test_exactly_one_target(text: str) -> None:
    target = UnixPath(text) if text.startswith("/") else parse_any_target(text)
    policy = Policy((exactly(target),))
    assert policy.refusal(target) is None
    assert policy.refusal(Target("other", 1)) is not None
    assert policy.refusal(UnixPath("/run/aXbc?")) is not None
    # and so does the pattern that a refusal names, also in a list
    (named, _) = parse_allows(f"{exactly(target)},other:2")
    assert Policy((named,)).refusal(target) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a port number"),
        ("a", "'a' is not a port number"),
        (":80", "the host is missing"),
        ("a:9-3", "'9-3' is no range of ports"),
        ("a:0", "'0' is not a port number from 1"),
        ("a b:1", "'a b' is not a host name"),
        ("fe80::1:80", "IPv6 addresses need brackets"),
        ("10.1.*:80", "write a network, such as 10.1.0.0/16"),
        ("10.0.0.1/8:1", "has host bits set"),
        ("a/8:1", "does not appear to be an IPv4 or IPv6 network"),
        ("/run/../x", "not an absolute path"),
        ("[fe80::*]:80", "[fe80::*] is not an IPv6 address"),  # as a set: hosts of one letter
        ("[a-z]:80", "[a-z] is not an IPv6 address"),
        ("[10.0.0.5]:80", "[10.0.0.5] is not an IPv6 address"),
        ("a\x1b:1", "is not a host name"),
    ],
)
def test_wrong_patterns(text: str, said: str) -> None:
    for parse in (parse_allow, parse_allow_listen):
        with pytest.raises(SpecError) as caught:
            parse(text)
        assert said in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ("node17:80", "--allow node17:80"),
        ("[fe80::1]:80", "--allow '[fe80::1]:80'"),
        ("x;reboot:80", "--allow 'x;reboot:80'"),
        ("/run/a b", "--allow '/run/a b'"),
        ("[::ffff:10.0.0.5]:80", "--allow '[::ffff:10.0.0.5]:80'"),
        ("[::ffff:127.0.0.1]:80", "--allow '[::ffff:127.0.0.1]:80'"),
        ("[fe80::1%eth0]:80", "--allow '[fe80::1%eth0]:80'"),
        ("[::1%lo]:80", "--allow '[::1%lo]:80'"),
        ("0.0.0.0:80", "--allow 0.0.0.0:80"),
        ("127.1:80", "--allow 127.1:80"),
    ],
)
def test_a_refusal_names_what_would_allow_it(asked: str, option: str) -> None:
    target = parse_any_target(asked)
    refusal = Policy(LOCAL_PORTS).refusal(target)
    assert refusal == Refusal(
        Code.PROHIBITED,
        f"{target}: not allowed; muxfs dial {option} would allow it",
    )
    assert allowing(option.split(" ", 1)[1].strip("'")).refusal(target) is None


@pytest.mark.parametrize(
    ("pattern", "asked", "allowed"),
    [
        ("8000-8010", "8005", True),
        ("8000-8010", "localhost:8005", True),
        ("8000-8010", "127.0.0.1:8005", True),
        ("8000-8010", "*:8005", False),
        ("8000-8010", "0.0.0.0:8005", False),
        ("8000-8010", "8011", False),
        ("*:8080", "*:8080", True),
        ("*:8080", "8080", True),
        ("10.0.0.0/8:8080", "10.0.0.1:8080", True),
        ("8080", "0", False),
        ("*", "0", True),
        ("1024-65535", "0", True),
        ("/run/*", "/run/s", True),
        ("8080", "/run/s", False),
    ],
)
def test_listening(pattern: str, asked: str, allowed: bool) -> None:
    policy = Policy(allow_listen=(parse_allow_listen(pattern),))
    assert (policy.listen_refusal(parse_place(asked)) is None) is allowed


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ("80", "80"),
        ("*:8080", "'*:8080'"),
        ("*:0", "'*:1024-65535'"),
        ("[2001:db8::1]:0", "'[2001:db8::1]:1024-65535'"),
        ("/run/s", "/run/s"),
    ],
)
def test_a_refusal_to_listen_names_what_would_allow_it(asked: str, option: str) -> None:
    place = parse_place(asked)
    refusal = Policy(allow_listen=FREE_LOOPBACK_PORTS, command="muxfs listen").listen_refusal(place)
    assert refusal == Refusal(
        Code.PROHIBITED,
        f"{place}: not allowed; muxfs listen --allow-listen {option} would allow it",
    )
    allowed = Policy(allow_listen=(parse_allow_listen(option.strip("'")),))
    assert allowed.listen_refusal(place) is None


@pytest.mark.parametrize("asked", ["8000", "0", "localhost:1024", "127.0.0.9:0", "[::1]:65535"])
def test_free_loopback_ports(asked: str) -> None:
    assert Policy(allow_listen=FREE_LOOPBACK_PORTS).listen_refusal(parse_place(asked)) is None


def test_nothing_is_lent_unless_that_is_said() -> None:
    assert Policy().listen_refusal(parse_place("8000")) is not None
    assert Policy().refusal(Target("localhost", 8000)) is not None


def test_an_own_socks_server_may_reach_anything_unless_something_was_said() -> None:
    somewhere = Target("somewhere", 1)
    assert Policy(LOCAL_PORTS).of_own_socks.refusal(somewhere) is None
    said = Policy((parse_allow("db:5432"),), allow_said=True).of_own_socks
    assert said.refusal(somewhere) is not None
    assert said.refusal(Target("db", 5432)) is None


# Names and what they resolve to


class Resolver(trio.abc.HostnameResolver):
    """Knows some names."""

    names = {  # noqa: RUF012
        b"inside": ["10.0.0.7"],
        b"rebound.example.org": ["127.0.0.1"],
        b"mapped.example.org": ["::ffff:127.0.0.1"],
        b"nowhere.example.org": ["0.0.0.0"],
        b"mixed": ["192.0.2.1", "127.0.0.1"],
        b"127.0.0.1": ["127.0.0.1"],
        b"::1": ["::1"],
    }
    asked: list[object]

    def __init__(self) -> None:
        self.asked = []

    async def getaddrinfo(
        self, host: bytes, port: int, _family: int, kind: int, *_: object
    ) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        self.asked.append(host)
        found = []
        for text in self.names[host]:
            if ":" in text:
                found.append((socket.AF_INET6, kind, 0, "", (text, port, 0, 0)))
            else:
                found.append((socket.AF_INET, kind, 0, "", (text, port)))
        return found

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise AssertionError("nothing asks for the name of an address")


def resolving() -> Resolver:
    found = Resolver()
    trio.socket.set_custom_hostname_resolver(found)
    return found


async def test_a_name_that_cannot_be_allowed_is_not_even_resolved() -> None:
    resolver = resolving()
    for policy in (allowing("db:1"), allowing("10.0.0.0/8:2"), Policy(LOCAL_PORTS)):
        assert isinstance(await dial(Target("inside", 1), policy, 5), Refusal)
        assert isinstance(await open_datagrams(Target("inside", 1), policy, 5), Refusal)
    assert resolver.asked == []


@pytest.mark.parametrize(
    "name", ["rebound.example.org", "mapped.example.org", "nowhere.example.org"]
)
async def test_a_glob_of_names_does_not_lead_home(name: str) -> None:
    """Who serves the zone could else make any service of this host reachable (DNS rebinding)."""
    resolving()
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target(name, server.getsockname()[1])
        refusal = await dial(target, allowing("*.example.org:*"), 5)
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.PROHIBITED
        assert f"{target}: it resolves to " in refusal.reason
        assert isinstance(await open_datagrams(target, allowing("*.example.org:*"), 5), Refusal)
        # the name itself says it
        found = await dial(target, allowing(f"{name}:*"), 5)
        assert isinstance(found, Connection)
        found.reset()


async def test_of_a_name_only_allowed_addresses_are_dialled() -> None:
    resolving()
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target("mixed", server.getsockname()[1])
        found = await dial(target, allowing("127.0.0.0/8:*"), 5)
        assert isinstance(found, Connection)
        assert found.peer.startswith("127.0.0.1:")
        found.reset()
        refusal = await dial(target, allowing("10.0.0.0/8:*"), 5)
        assert refusal == Refusal(
            Code.PROHIBITED,
            f"{target}: it resolves to 192.0.2.1, which is not allowed; "
            f"muxfs dial --allow 192.0.2.1:{target.port} would allow it",
        )


async def test_localhost_is_never_asked_of_dns() -> None:
    """A resolver that takes localhost. for a name of its zone would decide where it leads."""
    resolver = resolving()
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("localhost", "LocalHost."):
            found = await dial(Target(name, server.getsockname()[1]), Policy(LOCAL_PORTS), 5)
            assert isinstance(found, Connection)
            found.reset()
    assert set(resolver.asked) <= {b"127.0.0.1", b"::1"}


async def test_datagrams_to_localhost() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        found = await open_datagrams(Target("localhost", port), Policy(LOCAL_PORTS), 5)
        assert isinstance(found, socket.socket)
        with found:
            found.send(b"hello")
            assert server.recv(100) == b"hello"


async def test_the_next_address_is_tried_while_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Happy eyeballs: RFC 8305."""
    resolving()
    from muxfs.forwards import dialer

    plain = dialer._connect

    async def connect(family: int, address: tuple[str, int], _begun: object) -> Connection:
        if address[0] == "192.0.2.1":
            await trio.sleep_forever()
        return await plain(family, address)

    monkeypatch.setattr(dialer, "_connect", connect)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target("mixed", server.getsockname()[1])
        found = await dial(target, Policy(EVERYTHING), 5)
        assert isinstance(found, Connection)
        assert found.peer.startswith("127.0.0.1:")
        found.reset()


async def test_unix_sockets_in_words(tmp_path: Path) -> None:
    path = UnixPath(str(tmp_path / "none"))
    policy = Policy((exactly(path),))
    assert await dial(path, policy, 5) == Refusal(
        Code.REFUSED, f"ENOENT {path}: there is no such socket"
    )
    refused = explain(path, OSError(errno.EACCES, "x"))
    assert refused == Refusal(Code.UNREACHABLE, f"EACCES {path}: the socket is not for this user")


async def test_a_unix_socket_with_a_full_backlog_is_tried_again(tmp_path: Path) -> None:
    path = UnixPath(str(tmp_path / "s"))
    policy = Policy((exactly(path),))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path.path)
        server.listen(0)
        first.connect(path.path)
        refusal = await dial(path, policy, 0.1)
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.TIMEOUT

        async def accept_late() -> None:
            await trio.sleep(0.05)
            server.accept()[0].close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_late)
            found = await dial(path, policy, 5)
        assert isinstance(found, Connection)
        found.reset()


def test_spellings_of_addresses() -> None:
    assert parse_address("::ffff:10.0.0.1") == ipaddress.IPv4Address("10.0.0.1")
