"""Where the options of a Slurm command line end, and what --tunnel, --prolog and others say.

getopt stops at the first word that is no option, so that one has to know which options
take the next word as their value. Slurm has no way to ask; what is unknown is taken to
have its value after `=`, or none.
"""

from __future__ import annotations

from typing import Final

import attrs

TUNNEL: Final = "tunnel"

_SHARED: Final = "AbBcCdDFGJLmMnNpqStwx"
_SHORT_WITH_VALUE: Final = {
    "srun": f"{_SHARED}eiorTW",
    "sbatch": f"{_SHARED}aeio",
    "salloc": f"{_SHARED}W",
}
_NAMES: Final = """
    account acctg-freq array batch bb bbf bcast begin bcast-exclude chdir cluster
    cluster-constraint clusters comment constraint container container-id core-spec cores-per-socket
    cpu-bind cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution
    epilog error exclude export export-file extra extra-node-info gpu-bind gpu-freq gpus
    gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group hint input job-name
    jobid licenses mail-type mail-user max-threads mcs-label mem mem-bind mem-per-cpu
    mem-per-gpu mincpus mpi msg-timeout network nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket ntasks-per-tres oom-kill-step open-mode
    output pack-group partition power prefer priority profile prolog qos relative reservation
    resv segment signal slurmd-debug sockets-per-node stepmgr switches task-epilog task-prolog
    thread-spec threads threads-per-core time time-min tmp tres-bind tres-per-task tunnel uid gid
    wait-all-nodes wait wckey wrap
"""
_LONG_WITH_VALUE: Final = frozenset(_NAMES.split())
_FLAG_FOR: Final = {"sbatch": {"wait"}}
"""What is a flag of this command, and has a value for others."""


@attrs.frozen
class Option:
    """One option as it was written."""

    name: str
    """Its long name, or its letter."""
    value: str | None
    words: tuple[str, ...]


@attrs.frozen
class Line:
    """The words of a Slurm command after its name."""

    options: tuple[Option, ...]
    rest: tuple[str, ...]
    """The program or script and what is its own; with the `--` before it, if there is one."""

    def value(self, name: str) -> str | None:
        """Return the value of the last option of that name."""
        found = [option.value for option in self.options if option.name == name]
        return found[-1] if found else None

    def values(self, name: str) -> list[str]:
        """Return the values of all options of that name."""
        return [o.value or "" for o in self.options if o.name == name]

    def has(self, *names: str) -> bool:
        """Whether one of them was given."""
        return any(option.name in names for option in self.options)

    def without(self, *names: str) -> list[str]:
        """Return the words of all other options, unchanged."""
        return [word for o in self.options if o.name not in names for word in o.words]


def parse(command: str, words: list[str]) -> Line:
    """Divide a command line as that command's getopt would."""
    options: list[Option] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--" or not word.startswith("-") or word == "-":
            break
        name, value, needs = _long(command, word) if word[1] == "-" else _short(command, word)
        count = 1
        if needs and at + 1 < len(words):
            value, count = words[at + 1], 2
        options.append(Option(name, value, tuple(words[at : at + count])))
        at += count
    return Line(tuple(options), tuple(words[at:]))


def _long(command: str, word: str) -> tuple[str, str | None, bool]:
    name, equals, value = word[2:].partition("=")
    return name, value if equals else None, not equals and _takes_value(command, name)


def _takes_value(command: str, name: str) -> bool:
    # getopt takes a beginning that only one option has, too; Slurm's `mem` stands for itself
    if name in _FLAG_FOR.get(command, ()):
        return False
    return name in _LONG_WITH_VALUE


def _short(command: str, word: str) -> tuple[str, str | None, bool]:
    with_value = _SHORT_WITH_VALUE[command]
    for at, letter in enumerate(word[1:], start=1):
        if letter in with_value:
            value = word[at + 1 :]
            return letter, value or None, not value
    return word[1:], None, False
