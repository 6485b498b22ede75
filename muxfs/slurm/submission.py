"""One command line with a --tunnel, and how its helper is started on this host."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

import attrs

from muxfs.slurm import own, places
from muxfs.slurm.plan import Command, Plan

TAKEN: Final = (
    "port {port} of {host} is in use now: if it still is when the job runs, a free one is taken "
    "in its place, which muxfs status shows"
)


class NoCommand(Exception):
    """Slurm's command cannot be run; `str()` is one sentence for people."""


@attrs.frozen
class Submission:
    """What --tunnel of a command asks for."""

    command: Command
    spec: str
    template: str
    """The tunnel's directory, see `places`."""

    @classmethod
    def of(cls, command: Command, spec: str) -> Submission:
        """Parse the list, and say what it means. Raises SpecError, BadTemplate."""
        plan = Plan.parse(spec, command)
        submission = cls(command, spec, places.template(None))
        for sentence in plan.sentences(socket.gethostname()):
            say(sentence)
        if command is Command.SBATCH:  # what its helper notices later reaches no terminal
            for port in filter(_is_taken, plan.ports_here):
                say(TAKEN.format(port=port, host=socket.gethostname()))
        return submission

    def helper(self, action: str, *more: str) -> list[str]:
        """Return the words after `muxfs` that start a helper."""
        where = f"--dir={self.template}"
        return ["slurm", action, self.command.value, f"--tunnel={self.spec}", where, *more]


def say(words: str) -> None:
    """Tell the user; a closed standard error is no reason to stop."""
    with suppress(OSError, ValueError):
        print(f"muxfs: {words}", file=sys.stderr, flush=True)


def no_tunnel(why: str) -> None:
    """Warn that the job has no tunnel."""
    say(f"no tunnel: {why}; the job is not affected")


def _is_taken(port: int) -> bool:
    """Whether somebody listens there, on a loopback address of this host."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as error:  # others: this host has no IPv6, for instance
            if error.errno == errno.EADDRINUSE:
                return True
    return False


def become(command: Command, words: Sequence[str]) -> NoReturn:
    """Turn this process into Slurm's command. Raises NoCommand."""
    try:
        os.execvp(command.value, [command.value, *words])  # noqa: S606
    except OSError as error:
        raise cannot_run(command, error) from error


def cannot_run(command: Command, error: OSError) -> NoCommand:
    """Return what to tell of a command that cannot be started."""
    return NoCommand(f"cannot run {command.value}: {error.strerror}")


def start_helper(words: list[str], *, silent: bool = False) -> subprocess.Popen[bytes] | None:
    """Start `muxfs WORDS`, which outlives this process; `silent`: it is to keep no terminal."""
    try:
        return subprocess.Popen(  # noqa: S603
            own.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if silent else None,
            env=own.environment(),
            start_new_session=True,
        )
    except OSError as error:
        no_tunnel(f"{error.filename or ''} {error.strerror or error}".strip())
        return None
