"""The command lines that people need on their other hosts."""

from __future__ import annotations

from collections.abc import Sequence

from muxfs.cli.tunnel import quoted
from muxfs.forwards.listener import OpenPort
from muxfs.forwards.spec import ANY_ADDRESS, LOCALHOST, Target

_ANY = frozenset({ANY_ADDRESS, LOCALHOST, "0.0.0.0", "::"})  # noqa: S104


def dial_line(spelling: str, ports: Sequence[OpenPort]) -> str:
    """Return the `muxfs dial` that serves these ports."""
    targets = dict.fromkeys(port.forward.target.short for port in ports)
    return " ".join(["muxfs", "dial", quoted(spelling), *map(quoted, targets)])


def listen_line(spelling: str, targets: Sequence[Target]) -> str:
    """Return a `muxfs listen` that makes use of these targets."""
    forwards = [str(t.port) if t.host == LOCALHOST else quoted(f"{t.port}:{t}") for t in targets]
    return " ".join(["muxfs", "listen", quoted(spelling), *(forwards or ["PORT"])])


def ssh_line(host: str, ports: Sequence[OpenPort]) -> str:
    """Return the `ssh` for a person's own computer that leads to these ports of `host`."""
    words = ["ssh", "-N"]
    for port in ports:
        bind = port.forward.bind
        address = "127.0.0.1" if bind is None or bind in _ANY else bind
        address = f"[{address}]" if ":" in address else address
        words += ["-L", quoted(f"{port.port}:{address}:{port.port}")]
    return " ".join([*words, quoted(host)])
