"""Where a tunnel is, and whether its directory may be trusted.

    TUNNEL/sessions/0/dial.mbx, listen.mbx

Each session more has a directory beside the first one. Trio-free: `status` uses it.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping

from muxfs.cli.failures import (
    CANNOT_CREATE,
    NO_INPUT,
    NO_PERMISSION,
    USAGE,
    Failure,
    exit_code_of,
)

HOME_VARIABLE = "MUXFS_HOME"
SESSIONS = "sessions"


class Tunnel:  # of neither attrs nor typing: `stdio` starts for each connection
    """A tunnel's directory, which may not exist yet."""

    def __init__(self, path: str, spelling: str, home: str | None = None) -> None:
        self.path = path
        """Absolute."""
        self.spelling = spelling
        """How the other side's command line names the same directory."""
        self.home = home
        """The directory of all named tunnels, if this is one of them."""

    @property
    def sessions(self) -> str:
        """The directory of the sessions' directories."""
        return os.path.join(self.path, SESSIONS)


def tunnels_home(environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory of named tunnels."""
    return os.path.abspath(environ.get(HOME_VARIABLE) or os.path.expanduser("~/.muxfs"))


def resolve(text: str, environ: Mapping[str, str] = os.environ) -> Tunnel:
    """Find out which directory TUNNEL means. Raises Failure."""
    if "\0" in text or text in {"", ".", ".."}:
        raise Failure(
            f"{text!r} is not a tunnel: give a name, or a path with a / in it, such as ./job42",
            USAGE,
        )
    if "/" in text:
        path = os.path.abspath(text)
        return Tunnel(path, path)
    home = tunnels_home(environ)
    path = os.path.join(home, text)
    # the other side may not have the variable
    return Tunnel(path, path if environ.get(HOME_VARIABLE) else text, home)


def prepare(tunnel: Tunnel, *, insecure: bool = False) -> None:
    """Create the directories that are missing, and check that nobody else can write to them.

    Those of single sessions are made when they are used, by `prepare_directory`.
    Raises Failure. May block for as long as the file server does.
    """
    enter(tunnel, insecure=insecure)
    prepare_directory(tunnel.sessions, insecure=insecure)


def enter(tunnel: Tunnel, *, insecure: bool = False) -> list[str]:
    """Do the same for the tunnel's own directory only; return what had to be created.

    Raises Failure. May block for as long as the file server does.
    """
    made = [tunnel.home] if tunnel.home is not None and _make(tunnel.home) else []
    return [*made, tunnel.path] if prepare_directory(tunnel.path, insecure=insecure) else made


def prepare_directory(path: str, *, insecure: bool = False) -> bool:
    """Create a directory if it is missing, and check it; return whether it was missing.

    Raises and blocks as `prepare`.
    """
    try:
        made = _make(path)
        if not insecure:
            check(path)
    except OSError as error:
        raise Failure(f"cannot use {path}: {error.strerror}", exit_code_of(error)) from error
    return made


def _make(path: str) -> bool:
    """Create a directory; return whether it was missing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except FileNotFoundError:
        above = os.path.dirname(path)
        raise Failure(f"no such directory: {above} (mkdir -p {quoted(above)})", NO_INPUT) from None
    except OSError as error:
        if os.path.isdir(path):
            return (
                False  # a read-only filesystem says so even for what exists; the mailbox will tell
            )
        raise Failure(f"cannot create {path}: {error.strerror}", exit_code_of(error)) from error
    return True


def check(path: str) -> None:
    """Refuse a directory that other users could put files into. Raises Failure, OSError."""
    found = os.lstat(path)
    hint = "(--insecure-dir to use it all the same)"
    if stat.S_ISLNK(found.st_mode):
        real = os.path.realpath(path)
        raise Failure(
            f"{path} is a symbolic link; name the directory: {real} {hint}", NO_PERMISSION
        )
    if not stat.S_ISDIR(found.st_mode):
        raise Failure(f"{path} is not a directory", CANNOT_CREATE)
    if found.st_uid != os.geteuid():
        from muxfs.storage.filesystem import owner_advice  # noqa: PLC0415  (start-up of `stdio`)

        advice = owner_advice(path) or "choose one of your own"
        raise Failure(
            f"{path} belongs to another user (uid {found.st_uid}); {advice} {hint}", NO_PERMISSION
        )
    if found.st_mode & 0o022:
        raise Failure(
            f"other users can write to {path}; mend it with: chmod go-w {quoted(path)} {hint}",
            NO_PERMISSION,
        )


def quoted(text: str) -> str:
    """Quote for a shell, and so that no control character reaches the terminal."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(c) for c in text) + "'"


def _escaped(character: str) -> str:
    if character in "'\\":
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
