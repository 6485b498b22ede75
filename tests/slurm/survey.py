"""Runs on a host, as root: what the cluster's users have there, one line each.

python -m tests.slurm.survey UID...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

LISTENS = "0A"
"""State of a listening TCP socket, in /proc/net/tcp."""
SHARED = "/shared"
"""The homes are there, too. (A socket in a host's /tmp that outlives SIGKILL is no leftover: it
leads nowhere, and the next end there removes it.)"""


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


def groups() -> Iterator[str]:
    """Find the cgroups of jobs."""
    for path in Path("/sys/fs/cgroup/freezer").glob("slurm*/uid_*/job_*"):
        yield f"cgroup {path}"


def mailboxes() -> Iterator[str]:
    """Find mailbox files in what all hosts share."""
    for path in Path(SHARED).rglob("*.mbx"):
        yield f"mailbox {path}"


def main() -> None:
    """Print all of it."""
    if sys.argv[1:] == ["mailboxes"]:
        print(*mailboxes(), sep="\n")
    else:
        users = {int(word) for word in sys.argv[1:]}
        print(*processes(users), *ports(users), *groups(), sep="\n")


if __name__ == "__main__":
    main()
