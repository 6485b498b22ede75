"""The job's side as a step of its own, started from the submission host.

It takes nothing from the steps of the user, and Slurm ends it politely. srun tells of that
end as of a failure, so that its words are passed on only while the job goes on.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from muxfs.errors import printable
from muxfs.slurm import own
from muxfs.slurm.jobs import JobId
from muxfs.slurm.submission import no_tunnel, say
from muxfs.slurm.submitter import Submitter

GRACE: Final = 10.0
"""Seconds for the step to end."""
ENDING: Final = 3.0
"""Seconds between the end of a job's steps and that of the command which made the job."""
MOST_LINES: Final = 20

_OPTIONS: Final = (
    *("--overlap", "--nodes=1", "--ntasks=1", "--relative=0", "--mem=0", "--gres=none"),
    *("--job-name=muxfs", "--chdir=/", "--mpi=none", "--quiet", "--unbuffered"),
)
_OWN: Final = b"muxfs: "


@contextlib.contextmanager
def running(job: JobId, words: Sequence[str], submitter: Submitter) -> Iterator[None]:
    """Run `muxfs WORDS` on the job's first node for as long as the context. Raises OSError."""
    command = ["srun", f"--jobid={job}", *_OPTIONS, *own.command(*words)]
    child = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=own.environment()
    )
    ending = threading.Event()

    def listen() -> None:
        lines: deque[str] = deque(maxlen=MOST_LINES)
        assert child.stderr is not None  # noqa: S101  (a pipe)
        for line in child.stderr:
            text = printable(line.decode(errors="replace").rstrip())
            if line.startswith(_OWN):
                say(text.removeprefix("muxfs: "))
            else:
                lines.append(text)
        if child.wait() and not ending.is_set() and not submitter.wait(ENDING):
            no_tunnel(f"its step in job {job} failed: " + "; ".join(lines))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        ending.set()
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        listener.join(1.0)
