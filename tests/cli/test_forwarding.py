"""From options to forwards and consent, and the lines that people are given."""

from __future__ import annotations

import argparse
import errno
import shlex

import pytest

from muxfs.cli import dial, forwarding, hints, listen
from muxfs.cli.arguments import Parser
from muxfs.cli.jobs import take_tunnel
from muxfs.forwards.consent import FREE_LOOPBACK_PORTS, LOCAL_PORTS
from muxfs.forwards.ports import open_port
from muxfs.forwards.spec import Kind, parse_forwards


def parsed(command: str, *arguments: str) -> argparse.Namespace:
    parser = Parser(command, "")
    {"listen": listen, "dial": dial}[command].add_arguments(parser)
    args = parser.parse_intermixed_args(["job", *arguments])
    args.command = []
    _, words = take_tunnel(args.words, None)
    setattr(args, "forwards" if command == "listen" else "targets", words)
    return args


def test_forwards_in_the_order_of_the_command_line() -> None:
    args = parsed(
        "listen", "8888", "-D", "1080", "-L1:2", "--http-proxy", "[::1]:3128", "R1:2", "-R", "3,4:5"
    )
    assert [forward.option for forward in forwarding.forwards(args)] == [
        "-L 8888:localhost:8888",
        "-R 1:localhost:2",
        "-D 1080",
        "-L 1:localhost:2",
        "--http-proxy [::1]:3128",
        "-R 3",
        "-R 4:localhost:5",
    ]


@pytest.mark.parametrize(
    ("arguments", "allow", "allow_listen"),
    [
        ((), list(LOCAL_PORTS), FREE_LOOPBACK_PORTS),
        (("8888,db:5432",), ["localhost:8888", "db:5432"], FREE_LOOPBACK_PORTS),
        (("--allow", "a:1,b:2"), [*LOCAL_PORTS, "a:1", "b:2"], FREE_LOOPBACK_PORTS),
        (("8888", "--allow", "a:*"), ["localhost:8888", "a:*"], FREE_LOOPBACK_PORTS),
        (("--allow-listen", "80", "/run/s"), ["/run/s"], ("80",)),
    ],
)
def test_what_dial_consents_to(
    arguments: tuple[str, ...], allow: list[object], allow_listen: tuple[object, ...]
) -> None:
    policy = forwarding.policy("dial", parsed("dial", *arguments))
    assert list(map(str, policy.allow)) == list(map(str, allow))
    assert list(map(str, policy.allow_listen)) == list(map(str, allow_listen))
    assert policy.allow_said is ("--allow" in arguments)
    assert policy.command == "muxfs dial"


def test_listen_consents_to_nothing_by_itself() -> None:
    policy = forwarding.policy("listen", parsed("listen", "8888"))
    assert (policy.allow, policy.allow_listen) == ((), ())
    policy = forwarding.policy("listen", parsed("listen", "--allow", "*:*", "--allow-listen", "1"))
    assert list(map(str, policy.allow + policy.allow_listen)) == ["*:*", "1"]
    assert policy.command == "muxfs listen"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("8888", "9000:8888", "1900:license:1900"), "muxfs dial job 8888 license:1900"),
        (("-D", "1080", "8888", "--http-proxy", "3128"), "muxfs dial job 8888 --allow '*:*'"),
        (("-U", "53:dns:53", "-L", "1:/run/s"), "muxfs dial job /run/s dns:53"),
        (("-R", "8001:8000", "-R", "0"), "muxfs dial job"),
        (("-R", "80:8000"), "muxfs dial job --allow-listen 80"),
        (("-R", "*:0"), "muxfs dial job --allow-listen '*:1024-65535'"),
    ],
)
def test_the_line_for_the_dialling_host(arguments: tuple[str, ...], line: str) -> None:
    forwards = forwarding.forwards(parsed("listen", *arguments))
    found = hints.dial_line("job", forwards)
    assert sorted(found.split()) == sorted(line.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "muxfs listen job PORT"),
        (("8888", "db:5432"), "muxfs listen job 8888 5432:db:5432"),
        (("/run/s",), "muxfs listen job 0:/run/s"),
        (("--allow", "*:*"), "muxfs listen job PORT -D 1080"),
        (("-R", "8001:8000"), "muxfs listen job --allow-listen 8001"),
        (("-L", "8001:db:1", "-D", "1"), "muxfs listen job --allow db:1 --allow '*:*'"),
        (("8888", "-R", "/s:1"), "muxfs listen job 8888 --allow-listen /s"),
    ],
)
def test_the_line_for_the_listening_host(arguments: tuple[str, ...], line: str) -> None:
    args = parsed("dial", *arguments)
    policy = forwarding.policy("dial", args)
    assert hints.listen_line("job", policy.allow, forwarding.forwards(args)) == line


async def test_the_line_for_the_own_computer() -> None:
    ports = [
        await open_port(forward)
        for text, kind in (("0:8888", Kind.LOCAL), ("0", Kind.DYNAMIC), ("0:53", Kind.UDP))
        for forward in parse_forwards(text, kind)
    ]
    web, socks, _ = (port.port for port in ports)
    line = f"ssh -N -L {web}:127.0.0.1:{web} -L {socks}:127.0.0.1:{socks} login1"
    assert hints.ssh_line("login1", ports) == line
    assert hints.ssh_line("login1", ports[2:]) == ""
    for port in ports:
        await port.aclose()


@pytest.mark.parametrize("spelling", ["job", "/scratch/my job/$x's", "/scratch/a*b"])
async def test_the_line_that_goes_through_two_shells(spelling: str) -> None:
    (forward,) = parse_forwards("0:/run/a b.sock")
    port = await open_port(forward)
    (line,) = hints.local_lines("login1", spelling, [port])
    here = shlex.split(line)
    assert here[: here.index("--")] == ["muxfs", "local", str(port.port)]
    ssh, host, *command = here[here.index("--") + 1 :]
    assert (ssh, host) == ("ssh", "login1")
    there = ["muxfs", "stdio", spelling, "/run/a b.sock"]
    assert shlex.split(" ".join(command)) == there
    await port.aclose()


@pytest.mark.parametrize(
    ("text", "number", "words"),
    [
        ("80:1", errno.EACCES, "port 80 of localhost is not for ordinary users; choose one above"),
        ("80:1", errno.EADDRINUSE, "in use; -L 0:localhost:1 picks a free one"),
        ("80:1", errno.EADDRNOTAVAIL, "cannot listen on port 80 of localhost: "),
        ("/run/s:1", errno.EADDRINUSE, "/run/s: something listens there, or it is no socket"),
        ("/run/s:1", errno.ENOENT, "cannot listen on /run/s: No such file or directory"),
    ],
)
def test_places_that_cannot_be_had(text: str, number: int, words: str) -> None:
    import os

    (forward,) = parse_forwards(text)
    assert words in str(forwarding.explain(forward, OSError(number, os.strerror(number))))
