"""Options that commands share, and the values that they take.

Rule: nothing here imports more than argparse; commands parse before they import.
"""

from __future__ import annotations

import argparse
import math
import re

from muxfs.cli.failures import USAGE, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h|)", re.ASCII)
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_TIME = 30 * 86400.0
MOST_SESSIONS = 64

KEY_VARIABLE = "MUXFS_KEY_FILE"
"""The environment's key file, where no --key-file is given."""

SESSION_HELP = """\
  --ring SIZE             size of this side's mailbox file (16M; 256K to 1G)
  --poll MIN:MAX          how often to look for news: every MIN while busy, every
                          MAX when idle for long, as in 1ms:500ms (chosen by itself)
  --max-ops N             no more than N filesystem operations a second, of all
                          sessions together (2 at least)
  --access HOW            how to read and write the mailboxes (chosen by filesystem)
  --connect-timeout TIME  {connect} (30s)
  --peer-timeout TIME     give a silent other side up after this time; 0: never (60s)
  --sessions N            listening ends at once, on as many hosts; the same on both
                          sides (4)
  --takeover              end the process that runs this side already
  --any-user              let other users of this host use the open ports, too
  --insecure-dir          use the directory though others own it or could write to it
  --key-file FILE         encrypt all with the key in FILE (muxfs keygen makes it);
                          the other side must have it too (or: MUXFS_KEY_FILE)
  --label TEXT            shown to the other side, a job id for instance
"""
FORWARDS_HELP = """\
forwards, as with ssh; each may be repeated, and takes a list (more: docs/forwards.md):
  -L PLACE:TARGET         listen here, and let the other side connect to TARGET
  -R PLACE:TARGET         listen on the other side, and connect to TARGET here
  -R PLACE                a SOCKS server on the other side, which connects from here
  -D PLACE                a SOCKS server here (4, 4a, 5), which connects from there
  --http-proxy PLACE      the same for clients that want an HTTP proxy (CONNECT)
  -U PORT:HOST:PORT       as -L, for UDP
PLACE is [BIND:]PORT or the path of a Unix socket, TARGET is HOST:PORT or such a path.

"""
CONSENT_HELP = """\
consent to what the other side asks of this one:
  --allow PATTERN         {allow}
  --allow-listen PATTERN  {allow_listen}
PATTERN is HOST:PORT, where HOST may be *, *.example.org, 10.0.0.0/8 and PORT may be *,
8000-8999; or the path of a Unix socket. A refusal says which one would allow it.

"""
OUTPUT_HELP = """\
  --json                  events as JSON objects on stdout, one a line
  -v, --verbose           also each connection
  -q, --quiet             only errors
  -h, --help              this text
"""


class _Formatter(argparse.HelpFormatter):
    """One of a fixed width: to find out the terminal's, argparse would import shutil."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class Parser(argparse.ArgumentParser):
    """A parser with a hand-written help, whose errors are `Failure`s of one line."""

    def __init__(self, command: str, help_text: str) -> None:
        super().__init__(
            prog=f"muxfs {command}",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self._help_text = help_text

    def format_help(self) -> str:
        """Return the text of the command's author."""
        return self._help_text

    def error(self, message: str) -> NoReturn:
        """Raise Failure."""
        raise Failure(f"{message} (see {self.prog} --help)", USAGE)


def add_job_option(parser: argparse.ArgumentParser) -> None:
    """Add --job; `muxfs.cli.jobs` reads it."""
    parser.add_argument("--job", metavar="JOBID")


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add what configures a session; `muxfs.cli.ends` reads it."""
    add = parser.add_argument
    add("--ring", type=size, metavar="SIZE")
    add("--poll", type=poll, metavar="MIN:MAX")
    add("--max-ops", type=float, metavar="N")
    add("--access", metavar="HOW")
    add("--connect-timeout", type=positive_duration, default=30.0, metavar="TIME")
    add("--peer-timeout", type=duration, metavar="TIME")
    add("--sessions", type=session_count, default=4, metavar="N")
    add("--takeover", action="store_true")
    add("--any-user", action="store_true")
    add("--insecure-dir", action="store_true")
    add("--key-file", metavar="FILE")
    add("--label", default="", metavar="TEXT")


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Add what commands take that measure in a directory, by themselves or two together."""
    parser.add_argument("tunnel", metavar="TUNNEL")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--wait", type=positive_duration, default=600.0, metavar="TIME")
    parser.add_argument("--time", type=positive_duration, default=20.0, metavar="TIME")
    parser.add_argument("--ring", type=size, metavar="SIZE")
    parser.add_argument("--insecure-dir", action="store_true")
    parser.add_argument("--json", action="store_true")


def session_arguments(args: argparse.Namespace) -> list[str]:
    """Return the words for a command line with the same session options."""
    parser = argparse.ArgumentParser()
    add_session_options(parser)
    words: list[str] = []
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(args, name)
        if value == default:
            continue
        option = "--" + name.replace("_", "-")
        unit = "" if name == "max_ops" else "s"
        words.append(option if isinstance(value, bool) else f"{option}={_word(value, unit)}")
    return words


def _word(value: str | float | tuple[float, float], unit: str) -> str:
    match value:
        case tuple():
            return ":".join(_word(each, unit) for each in value)
        case float():
            return f"{value:g}{unit}"
        case _:
            return str(value)


class _AddForward(argparse.Action):
    """Collects (option, value) in the order of the command line."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        _option: str | None = None,
    ) -> None:
        namespace.forward_options = [
            *namespace.forward_options,
            (self.option_strings[0], values),
        ]


def add_forward_options(parser: argparse.ArgumentParser) -> None:
    """Add forwards; `muxfs.cli.forwarding` reads them."""
    for option in ("-L", "-R", "-D", "-U", "--http-proxy"):
        parser.add_argument(option, action=_AddForward, dest="forward_options", default=[])


def add_consent_options(parser: argparse.ArgumentParser) -> None:
    """Add consent to what the other side asks for; `muxfs.cli.forwarding` reads it."""
    for option in ("--allow", "--allow-listen"):
        parser.add_argument(option, action="append", default=[], metavar="PATTERN")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add what chooses the output."""
    parser.add_argument("--json", action="store_true")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true")
    volume.add_argument("-q", "--quiet", action="store_true")


def size(text: str) -> int:
    """Parse a size in bytes: `300000`, `256K`, `16M`, `16MiB`, `1G`."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256K, 16M or 1G")
    return int(float(found[1]) * _SIZE_UNITS[found[2].lower()])


def duration(text: str, unit: str = "s") -> float:
    """Parse a duration in seconds: `30`, `1.5s`, `500ms`, `2m`; `unit` where none is given."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 500ms, 30s or 2m")
    seconds = float(found[1]) * _TIME_UNITS[found[2] or unit]
    if not math.isfinite(seconds) or seconds > MAX_TIME:
        raise argparse.ArgumentTypeError(f"{text!r} is too long a time; at most 30 days")
    return seconds


def session_count(text: str) -> int:
    """Parse the number of sessions of a tunnel."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SESSIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_SESSIONS}")
    return int(text)


def positive_duration(text: str) -> float:
    """Parse a duration above zero."""
    seconds = duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than zero")
    return seconds


def poll(text: str) -> tuple[float, float]:
    """Parse `MIN:MAX` into seconds; numbers without a unit are milliseconds."""
    least, colon, most = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:MAX, such as 1ms:500ms")
    times = duration(least, "ms"), duration(most, "ms")
    if not 0 < times[0] <= times[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: MIN must be above 0 and not above MAX")
    return times
