"""The command of `muxfs dial TUNNEL -- COMMAND`: the tunnel lives as long as it does.

Rule 1: to whoever started muxfs it looks as if there were only the command: the same
terminal and process group (Slurm may find the processes of a job by it), standard
descriptors, limits, signals and exit code.
Rule 2: a tunnel that breaks ends no command.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from muxfs.blocking import open_process
from muxfs.cli.failures import Failure
from muxfs.forwards.spec import LOCALHOST, AnyTarget, Target

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""Exit codes of a shell for a command that cannot be started."""
TUNNEL_VARIABLE: Final = "MUXFS_TUNNEL"
PORT_VARIABLE: Final = "MUXFS_PORT"

_PORT: Final = re.compile(r"\{port(\d?)\}", re.ASCII)
_ATTEMPTS: Final = 20
_BOTH: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_FROM_TERMINALS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
SIGNALS: Final = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGURG, signal.SIGALRM),
)
"""What is passed on to the command; `sbatch --signal` sends more than those that end."""


def numbered(name: str, number: int) -> str:
    """Return the name for the port of that TARGET, from 1 on: MUXFS_PORT, MUXFS_PORT2, ..."""
    return name if number == 1 else f"{name}{number}"


def filled(text: str) -> str:
    """Return TARGET with 0 for `{port}`: a free port."""
    return _PORT.sub("0", text)


def with_ports(targets: Sequence[AnyTarget]) -> tuple[AnyTarget, ...]:
    """Give each target without a port a free one of localhost. Raises OSError."""
    found: list[AnyTarget] = []
    for target in targets:
        if isinstance(target, Target) and not target.port:
            taken = {other.port for other in found if isinstance(other, Target)}
            target = attrs.evolve(target, port=_free_port(taken))  # noqa: PLW2901
        found.append(target)
    return tuple(found)


def _free_port(taken: set[int]) -> int:
    """Find a port that is free on both loopback addresses. Nothing keeps it so."""
    for _ in range(_ATTEMPTS):
        port = 0
        try:
            for family, host in _BOTH:
                try:
                    with socket.socket(family, socket.SOCK_STREAM) as sock:
                        sock.bind((host, port))
                        port = sock.getsockname()[1]
                except OSError as error:
                    if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                        raise
        except OSError:
            continue  # taken on the second address
        if port and port not in taken:
            return port
    raise OSError(errno.EADDRINUSE, "no port of localhost is free")


def ports_of(targets: Sequence[AnyTarget]) -> dict[int, int]:
    """Return the ports of this host among the targets, by the target's number, from 1 on."""
    return {
        number: target.port
        for number, target in enumerate(targets, 1)
        if isinstance(target, Target) and target.host == LOCALHOST
    }


def spelled(words: Sequence[str], ports: Mapping[int, int]) -> list[str]:
    """Put ports in the places of `{port}`, `{port2}`, ...; what names no TARGET stays."""

    def fill(found: re.Match[str]) -> str:
        port = ports.get(int(found[1] or 1))
        return found[0] if port is None else str(port)

    return [_PORT.sub(fill, word) for word in words]


@attrs.define
class Child:
    """A command, which runs once its tunnel is there."""

    argv: Sequence[str]
    targets: tuple[AnyTarget, ...]
    descriptors: int
    """The soft limit of open files that muxfs was started with."""
    _process: trio.Process | None = None
    _early: list[int] | None = None
    """Signals that came while it is being started."""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, tunnel: str) -> None:
        """Start it. Raises Failure."""
        ports = ports_of(self.targets)
        argv = spelled(self.argv, ports)
        environ = {**os.environ, TUNNEL_VARIABLE: tunnel}
        environ |= {numbered(PORT_VARIABLE, number): str(port) for number, port in ports.items()}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Python runs nothing between fork and exec that could lower it: threads are running
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(self.descriptors, soft), hard))
        self._early = []
        try:
            # what was open for the command stays so, such as <(...) of a shell; ours is not
            # inherited (PEP 446). Cancelled, nobody would know of a command that runs.
            with trio.CancelScope(shield=True):
                self._process = await open_process(argv, env=environ, close_fds=False)
        except OSError as error:
            raise _cannot_run(argv[0], error) from error
        finally:
            early, self._early = self._early, None
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in early:
            self.deliver(number)

    def deliver(self, number: int) -> bool:
        """Pass a signal on; False if there is no command (any more) to get it.

        What a terminal sends goes to its whole process group: the command has it already.
        """
        if self._early is not None:
            self._early.append(number)
            return True
        if not self.running or self._process is None:
            return False
        if number not in _FROM_TERMINALS or not _in_foreground():
            self._process.send_signal(number)
        return True

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code, as a shell would."""
        assert self._process is not None  # noqa: S101
        code = await self._process.wait()
        return code if code >= 0 else 128 - code


def _cannot_run(name: str, error: OSError) -> Failure:
    missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
    code = NOT_FOUND if missing else NOT_EXECUTABLE
    why = "there is no such command" if missing and "/" not in name else error.strerror
    return Failure(f"cannot run {name}: {why}", code)


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
