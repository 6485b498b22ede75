"""How this very muxfs is started again: by a shell, by srun, on another host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import sys
from typing import Final

import muxfs
from muxfs.control import place

SUPERVISOR: Final = "MUXFS_SLURMSTEPD"
"""Environment variable: the number of the step's slurmstepd, see `supervision`."""
_FOREIGN: Final = (
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONMALLOC"),
    *("PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONSTARTUP", "PYTHONVERBOSE"),
    "PYTHONWARNINGS",
)
"""Environment variables for the Python of a user's own programs: modules set some of them."""
_LOG: Final = re.compile(r"slurm-.*\.log")


def command(*arguments: str) -> list[str]:
    """Return the words that run `muxfs ARGUMENTS` with this interpreter."""
    # -P: a module of the directory that it is started in, such as queue.py, is the user's
    return [sys.executable, "-P", "-m", "muxfs", *arguments]


def python_path() -> str:
    """Return the PYTHONPATH with which muxfs is found wherever the program is started."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(muxfs.__file__)))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # what is installed is found anyway; a checkout may be found only from within
    if "site-packages" not in home and "dist-packages" not in home:
        paths = [home, *paths]
    return os.pathsep.join(dict.fromkeys(filter(None, paths)))


def environment() -> dict[str, str]:
    """Return the environment for `command`."""
    path = python_path()
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return kept | ({"PYTHONPATH": path} if path else {})


def shell(*arguments: str) -> str:
    """Return a line for sh that runs `muxfs ARGUMENTS`."""
    path = python_path()
    without = [word for name in _FOREIGN for word in ("-u", name)]
    words = ["env", *without, *([f"PYTHONPATH={path}"] if path else []), *command(*arguments)]
    return " ".join(map(shlex.quote, words))


def log(name: str) -> int:
    """Return a descriptor of a new log file, `slurm-*.log`, beside the control sockets.

    As long as it is open the log is kept; those of helpers that were killed are removed.
    Raises Unsafe, OSError.
    """
    with place.opened(place.make_directory()) as directory:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        made = place.lock(directory, name, wait=True)
        fcntl.fcntl(made, fcntl.F_SETFL, os.O_APPEND)
        for other in filter(_LOG.fullmatch, os.listdir(directory)):
            with contextlib.suppress(OSError):  # its helper lives, or it is no log
                held = place.lock(directory, other, wait=False)
                os.unlink(other, dir_fd=directory)
                os.close(held)
        return made


def forget_log(name: str) -> None:
    """Remove a log that nobody needs any more; "": there is none."""
    with (
        contextlib.suppress(place.Unsafe, OSError),
        place.opened(place.make_directory()) as directory,
    ):
        os.unlink(name, dir_fd=directory)
