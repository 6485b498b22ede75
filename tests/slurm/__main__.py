"""Brings the Slurm cluster up and down, and runs commands in it.

    python -m tests.slurm up [--tracking linuxproc]   bring it up; if it is up: install muxfs anew
    python -m tests.slurm run [-u USER] HOST CMD...   on ctl, login1, login2, c1 or c2
    python -m tests.slurm cut|start c1                its power
    python -m tests.slurm partition|heal c1           its network
    python -m tests.slurm status
    python -m tests.slurm down
    python -m tests.slurm packages                    Debian packages that it needs
    python -m tests.slurm check                       whether this machine can do it

Users are user1 (the default), user2 and root. /shared and /home are on all hosts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import trio

from tests.lab import packages
from tests.lab.__main__ import STDERR, show, telling
from tests.lab.remote import LabError

from .cluster import TABLES, TRACKING, Cluster, home
from .host import ROOT, USER, USERS, Host


async def _up(cluster: Cluster) -> None:
    if cluster.cell.is_alive():
        cluster.install()
        print("the cluster is up, and has the muxfs of this checkout")
    else:
        await cluster.up()
        cluster.stay()
        print("the cluster is up; python -m tests.slurm run login1 COMMAND...")


async def _run(host: Host, user: str, argv: Sequence[str]) -> int:
    async with trio.open_nursery() as nursery:
        process = await host.start(nursery, *argv, errors=STDERR, user=user)
        return await show(process)


async def _happen(cluster: Cluster, what: str, host: Host) -> None:
    happen = {
        "cut": cluster.power_cut,
        "start": cluster.start,
        "partition": cluster.partition,
        "heal": cluster.heal,
    }
    await happen[what](host)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the cluster up")
    up.add_argument("--tracking", choices=TRACKING, default=TRACKING[0])
    run = commands.add_parser("run", help="run a command on one of its hosts")
    run.add_argument("-u", "--user", choices=(*USERS, ROOT), default=USER)
    run.add_argument("host")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    for command in ("cut", "start", "partition", "heal"):
        commands.add_parser(command).add_argument("host")
    for command in ("status", "down", "packages", "check"):
        commands.add_parser(command)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return telling("slurm", lambda: _do(options))


def _do(options: argparse.Namespace) -> int:
    match options.command:
        case "packages":
            print(*packages.packages(TABLES))
            return 0
        case "check":
            packages.check_cell(TABLES)
            return 0
    cluster = Cluster(home(), getattr(options, "tracking", TRACKING[0]))
    match options.command:
        case "up":
            trio.run(_up, cluster)
        case "down":
            trio.run(cluster.down)
        case "status":
            print("up" if cluster.cell.is_alive() else "not up")
        case command:
            if not cluster.cell.is_alive():
                raise LabError("the cluster is not up: python -m tests.slurm up")
            host = cluster.hosts.get(options.host)
            if host is None:
                raise LabError(f"no host {options.host!r}; there are {', '.join(cluster.hosts)}")
            if command == "run":
                return trio.run(_run, host, options.user, options.argv)
            trio.run(_happen, cluster, command, host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
