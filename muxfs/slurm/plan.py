"""What a --tunnel list asks for: which host listens, and which one dials.

The syntax and its meaning are those of slurm-spank-stunnel, `[L|R]PORT:[HOST:]PORT,...`.
There a letter was that of the ssh that ran on the submission host for srun, and in the job
for sbatch and salloc, so that it says the opposite in the two. What is here is said in words.
"""

from __future__ import annotations

import enum
import re
from typing import Final

import attrs

from muxfs.errors import printable
from muxfs.forwards.spec import Forward, Kind, Port, SpecError, Syntax, Target

LEAST_PORT: Final = 1024
"""Users cannot listen below it."""
FORM: Final = "[L|R]PORT:[HOST:]PORT"

_ITEM: Final = re.compile(
    r"-?(?P<letter>[LR]?)(?P<port>\d{1,5}):(?:(?P<host>[\w.\-\x80-\U0010ffff]+|\[[^][,]+\]):)?(?P<to>\d{1,5})",
    re.ASCII,
)


class Command(enum.Enum):
    """The commands that make jobs."""

    SRUN = "srun"
    SBATCH = "sbatch"
    SALLOC = "salloc"

    @property
    def outward(self) -> str:
        """The letter for: the submission host listens; the default, too."""
        return "L" if self is Command.SRUN else "R"


@attrs.frozen
class Plan:
    """The forwards of one --tunnel, by the host that listens."""

    submission: tuple[Forward, ...]
    """The submission host listens, and the job connects."""
    job: tuple[Forward, ...]
    """The job's first node listens, and the submission host connects."""

    @classmethod
    def parse(cls, text: str, command: Command) -> Plan:
        """Parse a comma list. Raises SpecError."""
        submission: list[Forward] = []
        job: list[Forward] = []
        for item in text.split(","):
            letter, forward = _parse(item.strip())
            outward = letter in {"", command.outward}
            (submission if outward else job).append(forward)
        return cls(tuple(submission), tuple(job))

    @property
    def listen_words(self) -> list[str]:
        """What `muxfs listen` gets on the submission host, after the tunnel."""
        allowed = [f"--allow={forward.target}" for forward in self.job]
        return [*map(str, self.submission), *dict.fromkeys(allowed)]

    @property
    def ports_here(self) -> list[int]:
        """The ports that the submission host is to listen on, but for those of its choice."""
        places = [forward.place for forward in self.submission]
        return [place.number for place in places if isinstance(place, Port) and place.number]

    @property
    def dial_words(self) -> list[str]:
        """What `muxfs dial` gets in the job, after the tunnel."""
        targets = [str(forward.target) for forward in self.submission]
        return [*dict.fromkeys(targets), *(word for f in self.job for word in ("-L", str(f)))]

    def sentences(self, submission_host: str, node: str = "the job's first node") -> list[str]:
        """Say for each forward which host listens, and which one dials."""
        here = f"{submission_host} (this host)"
        return [
            *(_sentence(forward, here, node) for forward in self.submission),
            *(_sentence(forward, node, here) for forward in self.job),
        ]


def _parse(item: str) -> tuple[str, Forward]:
    syntax = Syntax(printable(item), "tunnel", FORM)
    found = _ITEM.fullmatch(item)
    if found is None:
        raise syntax.error()
    port = syntax.port(found["port"], lowest=0)
    if 0 < port < LEAST_PORT:
        raise syntax.error(f"only root can listen on port {port}")
    end = attrs.evolve(syntax, text=f"{found['host'] or 'localhost'}:{found['to']}")
    target = end.target(end.parts())
    if not isinstance(target, Target):
        raise syntax.error()
    return found["letter"], Forward(Port(port), target, Kind.LOCAL)


def _sentence(forward: Forward, listener: str, dialler: str) -> str:
    port = forward.place
    what = "a free port" if isinstance(port, Port) and not port.number else f"port {port}"
    return f"{what} of {listener} leads to {forward.target}, as {dialler} sees it"


__all__ = ["Command", "Plan", "SpecError"]
