"""Where the tunnel of a job is that was made by --tunnel, and how the job tells that it runs.

    TEMPLATE          %u user, %j job, %h home directory, %% a percent sign
    DIR/.from-TOKEN.JOB

DIR is what of TEMPLATE does not depend on the job. sbatch does not tell plugins which job it
made, and an array is many jobs: each makes that empty file when it starts, and who waits for
the jobs of that token removes it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Mapping
from typing import Final

from muxfs.slurm.jobs import tunnel_of

DEFAULT: Final = "%h/.muxfs"
HOME_VARIABLE: Final = "MUXFS_HOME"

FORGOTTEN: Final = 86400.0
"""Seconds, by the clock of the file server, until what nobody took note of is removed."""

_ANNOUNCEMENT: Final = ".from-"
_OWN: Final = tunnel_of(0).replace("0", "%j")
_SIGN: Final = re.compile("%(.)", re.DOTALL)


def new_token() -> str:
    """Return a name for one submission that no other one has."""
    return os.urandom(8).hex()


class BadTemplate(ValueError):
    """A directory that cannot be meant; `str()` is one sentence for people."""


def template(given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return a template with a `%j` in it. Raises BadTemplate."""
    text = given or environ.get(HOME_VARIABLE, "").replace("%", "%%") or DEFAULT
    if not text.startswith(("/", "%h")):
        raise BadTemplate(f"the tunnel directory {text!r} must be an absolute path")
    unknown = [sign for sign in _SIGN.findall(text) if sign not in "ujh%"]
    if unknown or re.search(r"(?<!%)(%%)*%\Z", text):
        raise BadTemplate(f"the tunnel directory {text!r} may have %u, %j, %h and %% in it only")
    return text if "j" in _SIGN.findall(text) else os.path.join(text, _OWN)


def directory(text: str, job: int, step: int | None = None) -> str:
    """Return the tunnel's directory for a job, or for a step of it."""
    return _fill(text, str(job) if step is None else f"{job}.{step}")


def announce(text: str, token: str, job: int) -> None:
    """Tell who waits for the token that this job runs. Raises OSError."""
    path = _shared_part(text)
    os.makedirs(path, 0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    created = os.open(os.path.join(path, f"{_ANNOUNCEMENT}{token}.{job}"), flags, 0o600)
    now = os.fstat(created).st_mtime
    os.close(created)
    for name in filter(lambda name: name.startswith(_ANNOUNCEMENT), os.listdir(path)):
        with contextlib.suppress(OSError):  # of a submission whose helper was killed
            if now - os.stat(os.path.join(path, name)).st_mtime > FORGOTTEN:
                os.unlink(os.path.join(path, name))


def announced(text: str, token: str) -> list[int]:
    """Return the jobs of the token that have started since, and forget them."""
    path, prefix, jobs = _shared_part(text), f"{_ANNOUNCEMENT}{token}.", []
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            job = name.removeprefix(prefix)
            if job != name and job.isdecimal():
                jobs.append(int(job))
                os.unlink(os.path.join(path, name))
    return jobs


def _shared_part(text: str) -> str:
    parts = text.split("/")
    before = next(at for at, part in enumerate(parts) if "j" in _SIGN.findall(part))
    return _fill("/".join(parts[:before]) or "/", "")


def _fill(text: str, job: str) -> str:
    def value(found: re.Match[str]) -> str:
        match found[1]:
            case "u":
                return pwd.getpwuid(os.geteuid()).pw_name
            case "j":
                return job
            case "h":
                return os.path.expanduser("~")
            case other:
                return other

    return os.path.normpath(_SIGN.sub(value, text))
