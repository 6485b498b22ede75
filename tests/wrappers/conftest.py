"""Slurm's commands, played back, for the wrappers to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

_PROGRAM = """\
#!{python}
import json, os, sys
told = {{"argv": sys.argv[1:], "stdin": "" if os.isatty(0) else sys.stdin.read()}}
told["environ"] = {{k: v for k, v in os.environ.items() if k.startswith("SLURM_")}}
script = [word for word in sys.argv[1:] if os.path.isfile(word)]
told["script"] = open(script[-1]).read() if script else ""
with open({told!r}, "w") as file:
    json.dump(told, file)
print({out!r})
print("words of its own", file=sys.stderr)
sys.exit(7)
"""


@attrs.frozen
class Done:
    """A wrapper that has ended, and what Slurm's command was given."""

    status: int
    out: str
    err: str
    told: dict[str, Any]


@attrs.frozen
class Wrappers:
    """Runs `muxfs srun` and the like, with commands on PATH that note how they were called."""

    place: Path

    def make(self, name: str, out: str = "") -> None:
        program = self.place / "bin" / name
        program.parent.mkdir(exist_ok=True)
        told = str(self.place / "told")
        program.write_text(_PROGRAM.format(python=sys.executable, told=told, out=out))
        program.chmod(0o755)

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "muxfs", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.place,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PATH": f"{self.place / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
                "HOME": str(self.place),
                "XDG_RUNTIME_DIR": str(self.place),
                **environ,
            },
            timeout=60,
            check=False,
        )
        told = self.place / "told"
        found = json.loads(told.read_text()) if told.exists() else {}
        return Done(done.returncode, done.stdout, done.stderr, found)


@pytest.fixture
def wrappers(tmp_path: Path) -> Wrappers:
    made = Wrappers(tmp_path)
    for name in ("srun", "salloc"):
        made.make(name)
    made.make("sbatch", "sbatch has no number to tell")
    made.make("squeue")
    return made
