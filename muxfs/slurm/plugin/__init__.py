"""Building the SPANK plugin with the site's own header: it serves one release of Slurm only."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import Final

from muxfs.slurm import own

SOURCE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "muxfs.c")
HEADER: Final = "slurm/spank.h"
COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
MODE: Final = 0o755

_GET_COMPILER: Final = "install one: apt install gcc, or dnf install gcc"
_GET_HEADER: Final = (
    "it comes with Slurm: apt install libslurm-dev, dnf install slurm-devel, or give "
    "--include DIR, where DIR/slurm/spank.h is"
)


class NotBuilt(Exception):
    """The plugin could not be made; `str()` is what to tell, and what to do."""


def command() -> str:
    """Return the muxfs that a plugin starts unless plugstack.conf names another one."""
    script = os.path.join(os.path.dirname(sys.executable), "muxfs")
    return script if os.access(script, os.X_OK) else shlex.join(own.command())


def build(output: str, compiler: str | None = None, include: str | None = None) -> str:
    """Compile the plugin to the file `output`, which is replaced as a whole.

    Returns the release of Slurm that it is for, as in 22.05.8. Raises NotBuilt, OSError.
    """
    words = shlex.split(compiler) if compiler else _compiler()
    flags = [f"-I{include}"] if include else []
    release = _release(words, flags)
    # a slurmd that has the old one loaded keeps it: written beside it, and renamed
    with tempfile.TemporaryDirectory(prefix=".muxfs-", dir=os.path.dirname(output) or ".") as place:
        made = os.path.join(place, "muxfs.so")
        define = f'-DMUXFS_COMMAND="{command()}"'
        done = _run([*words, *FLAGS, *flags, define, "-o", made, SOURCE])
        if done.returncode:
            raise NotBuilt(f"{words[0]} failed:\n{done.stderr.rstrip()}")
        os.chmod(made, MODE)
        os.replace(made, output)
    return release


def _compiler() -> list[str]:
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if found is None:
        raise NotBuilt(f"there is no C compiler ({', '.join(COMPILERS)}); {_GET_COMPILER}")
    return [found]


def _release(compiler: list[str], flags: list[str]) -> str:
    program = f"#include <{HEADER}>\nmuxfs_version SLURM_VERSION_NUMBER\n"
    done = _run([*compiler, *flags, "-E", "-P", "-x", "c", "-"], program)
    if done.returncode:
        if HEADER in done.stderr:
            raise NotBuilt(f"{compiler[0]} finds no {HEADER}; {_GET_HEADER}")
        raise NotBuilt(f"{compiler[0]} failed:\n{done.stderr.rstrip()}")
    number = int(done.stdout.rpartition("muxfs_version")[2].split()[0], 16)
    return f"{number >> 16}.{number >> 8 & 255:02d}.{number & 255}"


def _run(words: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603  (the compiler that the administrator chose)
            words, input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise NotBuilt(f"cannot run {words[0]}: {error.strerror}; {_GET_COMPILER}") from error
