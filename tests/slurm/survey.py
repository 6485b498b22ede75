"""Runs on a host, as root: what the cluster's users have there, one line each.

python -m tests.slurm.survey UID...
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

LISTENS = "0A"
"""State of a listening TCP socket, in /proc/net/tcp."""
LOCAL_DISKS = ("/tmp", "/run", "/dev/shm", "/var/tmp")
SHARED = "/shared"
"""The homes are there, too."""


def processes(users: set[int]) -> Iterator[str]:
    """Find the processes of users, and muxfs's whosever they are."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            user = entry.stat().st_uid
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if user in users or any(Path(word).name == "muxfs" for word in words):
            yield f"process {entry.name} of {user}: {' '.join(words).strip()}"


def ports(users: set[int]) -> Iterator[str]:
    """Find the ports that users listen on."""
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, user, *_ = line.split()
            if int(user) in users and (state == LISTENS or table.startswith("udp")):
                yield f"{table} port {int(local.rpartition(':')[2], 16)} of {user}"


def sockets(users: set[int]) -> Iterator[str]:
    """Find sockets in the host's own filesystems."""
    for path, status in _files(LOCAL_DISKS):
        if status.st_uid in users and stat.S_ISSOCK(status.st_mode):
            yield f"socket {path} of {status.st_uid}"


def groups() -> Iterator[str]:
    """Find the cgroups of jobs."""
    for path in Path("/sys/fs/cgroup/freezer").glob("slurm*/uid_*/job_*"):
        yield f"cgroup {path}"


def mailboxes() -> Iterator[str]:
    """Find mailbox files in what all hosts share."""
    for path, _ in _files((SHARED,)):
        if path.suffix == ".mbx":
            yield f"mailbox {path}"


def _files(places: tuple[str, ...]) -> Iterator[tuple[Path, os.stat_result]]:
    for place in places:
        for directory, _, names in os.walk(place):
            for path in (Path(directory, name) for name in names):
                try:
                    yield path, path.lstat()
                except FileNotFoundError:
                    continue


def main() -> None:
    """Print all of it."""
    if sys.argv[1:] == ["mailboxes"]:
        print(*mailboxes(), sep="\n")
    else:
        users = {int(word) for word in sys.argv[1:]}
        print(*processes(users), *ports(users), *sockets(users), *groups(), sep="\n")


if __name__ == "__main__":
    main()
