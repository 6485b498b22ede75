"""Batch scripts that start a program of ours before they do what they always did.

    #!/bin/sh                the first lines, up to the first command, as in the original:
    #SBATCH ...              sbatch takes its options from there, in the same way
    START
    the original, appended to all this, is run by its own interpreter

Rule 1: whatever goes wrong with START, the original runs, with the same arguments,
descriptors and environment; its own first line says which program runs it.
Rule 2: nothing is left behind: the copy that is run has no name any more.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from typing import Final

from muxfs.slurm import options

_SHEBANG: Final = re.compile(rb"#![ \t]*(\S+)[ \t]*([^\r\n]*?)[ \t]*(?:\n|\Z)")
_DIRECTIVE: Final = b"#SBATCH"

_RUN: Final = """\
# The script of before begins below the last line of this one.
for muxfs_copy in "${{TMPDIR:-/tmp}}" /tmp /dev/shm; do
  muxfs_copy=$(mktemp "$muxfs_copy/slurm_script.XXXXXX" 2>/dev/null) || continue
  tail -n +{first} "$0" 2>/dev/null > "$muxfs_copy" && break
  rm -f "$muxfs_copy"
done
exec 9< "$muxfs_copy" || exit 1
rm -f "$muxfs_copy"
unset muxfs_copy
exec {interpreter} /proc/self/fd/9 "$@"
"""


def take_tunnels(original: bytes) -> tuple[list[str], bytes]:
    """Take `#SBATCH --tunnel=SPEC` out of a script, which sbatch would not know.

    Returns what the lists say, and the script without them, with as many lines.
    """
    specs: list[str] = []
    head = _head(original)
    for at, line in enumerate(head):
        if not line.startswith(_DIRECTIVE) or b"--tunnel" not in line:
            continue
        try:
            words = shlex.split(line[len(_DIRECTIVE) :].decode(), comments=True)
        except (UnicodeDecodeError, ValueError):
            continue  # sbatch says what is wrong with it
        parsed = options.parse("sbatch", words)
        specs += parsed.values(options.TUNNEL)
        rest = shlex.join(parsed.without(options.TUNNEL))
        head[at] = (f"#SBATCH {rest}\n" if rest else "#\n").encode()
    return specs, b"".join(head) + original[sum(map(len, _head(original))) :]


def starting_with(start: str, original: bytes) -> bytes:
    """Return a script that does `start`, which is for sh, and then what `original` does.

    One that sbatch would refuse stays as it is: sbatch says what is wrong with it.
    """
    shebang = _SHEBANG.match(original)
    if not start or shebang is None or b"\0" in original or b"\r\n" in original:
        return original
    words = [os.fsdecode(part) for part in shebang.groups() if part]
    interpreter = " ".join(map(shlex.quote, words))  # the kernel makes one word of all options
    head = b"#!/bin/sh\n" + b"".join(_head(original)[1:])
    if not head.endswith(b"\n"):
        head += b"\n"
    first = head.count(b"\n") + start.count("\n") + _RUN.count("\n") + 1
    text = start + _RUN.format(first=first, interpreter=interpreter)
    return head + os.fsencode(text) + original


def _head(original: bytes) -> list[bytes]:
    """Return the lines, with their ends, up to the first command: there are sbatch's options."""
    lines: list[bytes] = []
    for line in io.BytesIO(original):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            break
        lines.append(line)
    return lines
