"""The command lines that people need on their other hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from muxfs.cli.tunnel import quoted
from muxfs.endpoint.endpoint import DEFAULT_SESSIONS
from muxfs.forwards.consent import FREE_LOOPBACK_PORTS, LOCAL_PORTS, Policy, pattern_for
from muxfs.forwards.patterns import AnyPattern, PathPattern
from muxfs.forwards.ports import OpenPort
from muxfs.forwards.spec import (
    ANY_ADDRESS,
    LOCALHOST,
    TARGET_HOST,
    AnyTarget,
    Forward,
    Kind,
    Port,
    Target,
    bracketed,
)

_ANY: Final = frozenset({ANY_ADDRESS, LOCALHOST, "0.0.0.0", "::"})  # noqa: S104
_PROXIES: Final = frozenset({Kind.DYNAMIC, Kind.HTTP})


def dial_line(spelling: str, forwards: Sequence[Forward]) -> str:
    """Return the `muxfs dial` that serves these forwards."""
    targets = [
        f.target.short
        for f in forwards
        if f.target and f.kind is not Kind.REMOTE and not _is_numbered(f.target)
    ]
    options = _consent(forwards, Policy(allow_listen=FREE_LOOPBACK_PORTS))
    return _line("dial", spelling, [*map(quoted, targets), *options])


def listen_line(
    spelling: str,
    allow: Sequence[AnyPattern],
    forwards: Sequence[Forward] = (),
    numbered: Sequence[AnyTarget] = (),
    job: int | None = None,
) -> str:
    """Return a `muxfs listen` that uses what `muxfs dial` allows, and serves its forwards.

    numbered: its TARGETs, if they are to be named by their numbers, since the next time that
    it is started others may be free. job: whose own tunnel it is.
    """
    words: list[str] = []
    if numbered:
        words += [f"0:{TARGET_HOST}:{number}" for number, _ in enumerate(numbered, 1)]
        if job is not None and len(numbered) == 1 and not forwards:
            words = []  # is the default
    elif allow != LOCAL_PORTS or not forwards:
        words += map(_use, allow)
    for forward in forwards:
        if forward.target and forward.kind is not Kind.REMOTE:
            words.append(f"--allow {quoted(str(forward.target))}")
    words += _consent(forwards, Policy())
    if job is not None:
        return " ".join(["muxfs listen --job", str(job), *dict.fromkeys(words)])
    return _line("listen", spelling, words)


def options_of_both(sessions: int, *, insecure: bool, sealed: bool) -> str:
    """Return the options that the other side's line ends with, since they are for both."""
    words = [
        *([f"--sessions {sessions}"] if sessions != DEFAULT_SESSIONS else []),
        *(["--insecure-dir"] if insecure else []),
        *(["--key-file FILE"] if sealed else []),
    ]
    return "".join(f" {word}" for word in words)


def doctor_line(spelling: str) -> str:
    """Return the `muxfs doctor` to run on both hosts."""
    return f"muxfs doctor {quoted(spelling)} --peer"


def bench_line(spelling: str) -> str:
    """Return the `muxfs bench` to run on both hosts."""
    return f"muxfs bench {quoted(spelling)} --peer"


def ssh_line(host: str, ports: Sequence[OpenPort]) -> str:
    """Return the `ssh` for a person's own computer that leads to these ports of `host`.

    "" where none of them is one that ssh could lead to.
    """
    words: list[str] = []
    for port in ports:
        place = port.forward.place
        if isinstance(place, Port) and port.forward.kind is not Kind.UDP:
            address = "127.0.0.1" if place.bind is None or place.bind in _ANY else place.bind
            words += ["-L", quoted(f"{port.port}:{bracketed(address)}:{port.port}")]
    return " ".join(["ssh", "-N", *words, quoted(host)]) if words else ""


def local_lines(host: str, spelling: str, ports: Sequence[OpenPort]) -> list[str]:
    """Return the `muxfs local` for a person's own computer that lead to the same services."""
    return [
        f"muxfs local {port.port} -- ssh {quoted(host)} "
        # twice: ssh gives its words to a shell over there
        f"muxfs stdio {quoted(quoted(spelling))} {quoted(quoted(str(port.forward.target)))}"
        for port in ports
        if port.forward.kind is Kind.LOCAL and isinstance(port.forward.place, Port)
    ]


def urls(ports: Sequence[OpenPort]) -> list[str]:
    """Return what a browser opens, as far as these ports are those of web servers."""
    return [f"http://localhost:{port.port}" for port in ports if port.port]


def _is_numbered(target: AnyTarget) -> bool:
    return isinstance(target, Target) and target.host == TARGET_HOST


def _line(command: str, spelling: str, words: Sequence[str]) -> str:
    return " ".join(["muxfs", command, quoted(spelling), *dict.fromkeys(words)])


def _use(pattern: AnyPattern) -> str:
    """Write a forward that makes use of a pattern."""
    if (pattern,) == LOCAL_PORTS:
        return "PORT"
    if isinstance(pattern, PathPattern):
        return quoted(f"0:{pattern}")
    if pattern.first != pattern.last or not pattern.hosts.name:
        return "-D 1080"
    port = pattern.first
    return str(port) if pattern.hosts.name == LOCALHOST else quoted(f"{port}:{pattern}")


def _consent(forwards: Sequence[Forward], default: Policy) -> list[str]:
    """Return the options that these forwards need of the other side."""
    words = ["--allow '*:*'" for f in forwards if f.kind in _PROXIES]
    places = [f.place for f in forwards if f.kind is Kind.REMOTE]
    refused = [place for place in places if default.listen_refusal(place)]
    return words + [f"--allow-listen {quoted(pattern_for(place))}" for place in refused]
