"""Brings labs up and down, and runs commands in them.

    python -m tests.lab                      which labs there are, and what they lack here
    python -m tests.lab nfs4.2               bring it up (or find it up)
    python -m tests.lab nfs4.2+noac          the same with more mount options
    python -m tests.lab run nfs4.2 a CMD...  run a command: in a, b or server
    python -m tests.lab status               which labs are up
    python -m tests.lab down [nfs4.2]        end it, or all
    python -m tests.lab list                 the labs that MUXFS_LAB=all means
    python -m tests.lab packages nfs4.2...   Debian packages that it needs
    python -m tests.lab check nfs4.2...      whether this machine can do it

The shared directory is /mnt/home in a and b. Commands run as root, in this checkout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trio

from . import packages
from .catalogue import ALL, FILESYSTEMS, lab
from .cell import Cell
from .lab import Lab, home
from .remote import LabError, Process

STDERR = Path("/dev/stderr")
COMMANDS = ("up", "run", "status", "down", "list", "packages", "check")


def _lab(name: str) -> Lab:
    return lab(name, home() / name)


async def _up(name: str) -> None:
    wanted = _lab(name)
    if wanted.cell.is_alive():
        print(f"{name} is up")
    else:
        await wanted.up()
        wanted.stay()
        print(f"{name} is up; python -m tests.lab run {name} a COMMAND...")


async def _run(name: str, machine: str, argv: Sequence[str]) -> int:
    wanted = _lab(name)
    if not wanted.cell.is_alive():
        raise LabError(f"{name} is not up: python -m tests.lab {name}")
    if machine not in wanted.machines:
        raise LabError(f"no machine {machine!r}; there are {', '.join(wanted.machines)}")
    async with trio.open_nursery() as nursery:
        process = await wanted.machines[machine].start(nursery, *argv, errors=STDERR)
        return await show(process)


async def show(process: Process) -> int:
    """Print what a command says, to its end; return its exit status as a shell has it."""
    async for data in process.stdout:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    status = await process.wait()
    return status if status >= 0 else 128 - status


def _overview() -> None:
    """Print which labs this machine can do, and what the others lack."""
    lacking: dict[str, list[str]] = {}
    for name in FILESYSTEMS:
        try:
            packages.check(_programs([name]))
        except LabError as error:
            lacking.setdefault(str(error), []).append(name)
        else:
            lacking.setdefault("", []).append(name)
    for lack, names in lacking.items():
        print(f"{' '.join(names)}: {lack}" if lack else f"ready: {' '.join(names)}")
    print(
        "python -m tests.lab NAME brings one up, as nfs4.2, or with more mount options, as "
        "nfs4.2+noac; --help says the rest"
    )


def _status() -> None:
    for directory in sorted(home().glob("*")):
        print(
            f"{directory.name}: {'up' if Cell(directory).is_alive() else 'ended, not cleaned up'}"
        )


def _down(name: str | None) -> None:
    for directory in [home() / name] if name else sorted(home().glob("*")):
        Cell(directory).close()


def _programs(names: Sequence[str]) -> list[Mapping[str, str]]:
    return [table for name in names for table in _lab(name).programs]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("up", help="bring a lab up").add_argument("lab")
    run = commands.add_parser("run", help="run a command in one of its machines")
    run.add_argument("lab")
    run.add_argument("machine")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser("status", help="which labs are up")
    commands.add_parser("down", help="end a lab, or all").add_argument("lab", nargs="?")
    commands.add_parser("list", help="the labs that MUXFS_LAB=all means")
    for command in ("packages", "check"):
        commands.add_parser(command).add_argument("lab", nargs="+")
    if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
        arguments = ["up", *arguments]
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return telling("lab", lambda: _do(options))


def telling(name: str, work: Callable[[], int]) -> int:
    """Do it; return its exit status, or 1 after errors of the lab, which are told in its name."""
    status = 1
    try:
        status = work()
    except* LabError as group:
        print(*(f"{name}: {error}" for error in _leaves(group)), sep="\n", file=sys.stderr)
    return status


def _do(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            trio.run(_up, options.lab)
        case "run":
            return trio.run(_run, options.lab, options.machine, options.argv)
        case "status":
            _status()
        case "down":
            _down(options.lab)
        case "list":
            print(*ALL)
        case "packages":
            print(*packages.packages(_programs(options.lab)))
        case "check":
            packages.check(_programs(options.lab))
        case None:
            _overview()
    return 0


def _leaves(group: BaseExceptionGroup[LabError]) -> Sequence[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


if __name__ == "__main__":
    sys.exit(main())
