"""The muxfs under test, as a user of the cluster finds it: installed at /opt/muxfs on each host.

A virtual environment by hand: the interpreter of the tests, a copy of this checkout's packages,
and the libraries that the tests run with.
"""

from __future__ import annotations

import compileall
import os
import shutil
import site
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.lab.cell import CHECKOUT

JUPYTER = "MUXFS_JUPYTER"
"""Names an executable jupyter-lab, in a virtual environment of its own."""
PLACE = Path("/opt/muxfs")
"""Where the hosts have it."""
PYTHON = PLACE / "bin" / "python"

_COMMAND = f"""#!{PYTHON}
import sys
from muxfs.cli import main

sys.exit(main())
"""


def install(directory: Path) -> None:
    """Put this checkout, as it is now, into a directory that the hosts have at `PLACE`."""
    packages = directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages /= "site-packages"
    shutil.rmtree(packages, ignore_errors=True)
    for name in ("muxfs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, packages / name, ignore=ignored)
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    (directory / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    commands = directory / "bin"
    commands.mkdir(exist_ok=True)
    python, command = commands / "python", commands / "muxfs"
    python.unlink(missing_ok=True)
    python.symlink_to(base)
    command.write_text(_COMMAND)
    command.chmod(0o755)
    compileall.compile_dir(packages / "muxfs", quiet=2)
    # its users are not root
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def jupyter() -> str | None:
    """Return the executable jupyter-lab that the users of the cluster can run."""
    return os.environ.get(JUPYTER)


def visible() -> list[Path]:
    """Return the directories that interpreters and their libraries need, outermost first."""
    return sorted({path for path in _needed() if not path.is_relative_to("/usr")})


def _needed() -> Iterator[Path]:
    yield CHECKOUT
    yield Path(sys.base_prefix)
    yield Path(sys.prefix)
    yield from map(Path, filter(os.path.isdir, site.getsitepackages()))
    if (lab := jupyter()) is not None:
        prefix = Path(lab).absolute().parents[1]
        yield prefix
        for line in (prefix / "pyvenv.cfg").read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                yield Path(value.strip()).parent
