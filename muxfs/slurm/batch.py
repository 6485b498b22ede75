"""`muxfs sbatch`: the job's side is started by the script, this host's side after sbatch.

Both know the token of the submission; see `places`. The id that sbatch prints only says
until when to wait for the job.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import BinaryIO, Final

from muxfs.slurm import options, own, places, script
from muxfs.slurm.options import Line
from muxfs.slurm.plan import Command, Plan
from muxfs.slurm.submission import Submission, become, cannot_run, start_helper

_SUBMITTED: Final = re.compile(
    rb"(?:Submitted batch job )?(\d+)(?:;\S+)?(?: on cluster \S+)?\s*", re.ASCII
)
"""The line that sbatch writes to standard output, also with --parsable."""
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_START: Final = """\
({{
  [ -x {python} ] && exec {command}
  echo "muxfs: no tunnel: $(hostname) has no "{python}"; the job is not affected" >&2
}} </dev/null >/dev/null &)
"""
"""Looking for it is in the background, too: a file server may hang."""


def run(line: Line, spec: str) -> int:
    """Submit; return sbatch's exit code, or do not return. Raises as `wrappers.run`."""
    words, wrap = line.without(options.TUNNEL), line.value("wrap")
    rest = list(line.rest[1:] if line.rest[:1] == ("--",) else line.rest)
    if spec:
        Plan.parse(spec, Command.SBATCH)  # before anything is read
    original = b"" if wrap is not None else _read(rest)
    if original is not None:
        asked, original = script.take_tunnels(original)
        spec = spec or ",".join(asked)
    if original is None or not (spec or _from_stdin(rest, wrap)):
        become(Command.SBATCH, [*words, *line.rest])
    submission = Submission.of(Command.SBATCH, spec) if spec else None
    token = places.new_token()
    start = "" if submission is None else _start(submission, token)
    with tempfile.TemporaryDirectory(prefix="muxfs-") as directory:
        # sbatch names the job after the file
        path = os.path.join(directory, os.path.basename(rest[0]) if rest else "sbatch")
        with open(path, "wb") as file:
            file.write(script.starting_with(start, original))
        with open(path, "rb") as stored:
            if wrap is not None:
                words, stdin = (
                    [*line.without(options.TUNNEL, "wrap"), f"--wrap={start}{wrap}"],
                    None,
                )
            elif rest:
                words, stdin = [*words, path, *rest[1:]], None
            else:
                stdin = stored
            job, code = _run(words, stdin)
    if submission is not None and not code:
        which = [f"--job={job}"] if job else [f"--session={os.getsid(0)}"]
        helper = submission.helper("follow", f"--token={token}", *which)
        start_helper(helper, silent=True)
    return code


def _from_stdin(rest: list[str], wrap: str | None) -> bool:
    return not rest and wrap is None


def _read(rest: list[str]) -> bytes | None:
    """Read the script as sbatch would; None if that fails, which sbatch explains."""
    if not rest:
        return sys.stdin.buffer.read()
    paths = [rest[0]]
    if "/" not in rest[0]:
        paths += [os.path.join(p, rest[0]) for p in os.environ.get("PATH", "").split(os.pathsep)]
    for path in paths:
        with suppress(OSError), open(path, "rb") as file:
            return file.read()
    return None


def _start(submission: Submission, token: str) -> str:
    """Return what the script does first, for sh."""
    # the script's parent; what is started in the background is no descendant of it for long
    told = f"env {own.SUPERVISOR}=$PPID "
    command = told + own.shell(*submission.helper("serve", f"--token={token}"))
    return _START.format(python=shlex.quote(sys.executable), command=command)


def _run(words: list[str], stdin: BinaryIO | None) -> tuple[str, int]:
    """Run sbatch; return the job's id as far as it says it, and the exit code."""
    try:
        process = subprocess.Popen(  # noqa: S603
            [Command.SBATCH.value, *words], stdin=stdin, stdout=subprocess.PIPE
        )
    except OSError as error:
        raise cannot_run(Command.SBATCH, error) from error
    job = ""
    with _passing_on(process):
        assert process.stdout is not None  # noqa: S101  (a pipe)
        for line in process.stdout:
            with suppress(OSError):  # nobody reads it any more
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            found = _SUBMITTED.fullmatch(line)
            job = job or (found[1].decode() if found else "")
        code = process.wait()
    return job, code if code >= 0 else 128 - code


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the child decide what signals do."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
