"""`muxfs status` of all tunnels: one line for each session. Trio-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from muxfs.cli.layout import columns
from muxfs.cli.patience import Unanswered
from muxfs.errors import printable
from muxfs.slurm.queue import Job
from muxfs.storage.filesystem import guess_filesystem
from muxfs.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muxfs.cli.survey import Found, Session

_HEAD: Final = ("TUNNEL", "STATE", "LAST SIGN", "PORTS", "JOB")
_OF_LOOPBACK: Final = "127.0.0.1:"


def lines(found: Sequence[Found]) -> Iterator[str]:
    """Give the table. LAST SIGN is that of the end that was silent for longer."""
    yield from columns([_HEAD, *(row for tunnel in found for row in _rows(tunnel))])
    silent = [tunnel.path for tunnel in found if tunnel.unanswered is not None]
    places = groupby(sorted(silent, key=_mount), _mount)
    yield from (str(Unanswered(*paths)) for _, paths in places)


def _mount(path: str) -> str:
    return guess_filesystem(path).mount_point


def _rows(tunnel: Found) -> Iterator[tuple[str, ...]]:
    several = len(tunnel.sessions) > 1
    ports = ",".join(port.split()[0].removeprefix(_OF_LOOPBACK) for port in tunnel.ports)
    rest = (ports or "-", "-" if tunnel.job is None else _job(tunnel.job))
    if not tunnel.sessions:
        yield (printable(tunnel.name), tunnel.state, "-", *rest)
    for session in tunnel.sessions:
        name = f"{tunnel.name} session {session.name}" if several else tunnel.name
        yield (printable(name), session.state, _last_sign(session), *rest)


def _last_sign(session: Session) -> str:
    ages = [side.age for side in session.sides if side.last.birth and side.age is not None]
    return f"{span(max(ages))} ago" if ages else "-"


def _job(job: Job) -> str:
    return job.ending.removeprefix("job ") if job.ended else f"{job.name} {job.words}"
