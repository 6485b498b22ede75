"""Where the control sockets of this host's ends are, and how an end takes its place there.

    $XDG_RUNTIME_DIR/muxfs/     or      /tmp/muxfs-UID/          mode 0700
        DIGEST-listen-0.sock    mode 0600
        DIGEST-listen-0.lock    held by the process that made the socket

DIGEST stands for the tunnel's real path. The number counts the ends of one role that run
at once. Not $TMPDIR: it differs between a user's processes, and in jobs it is often on
the shared filesystem.

Rule 1: sockets are reached through a descriptor of the directory that was checked, by
`/proc/self/fd`: nobody can swap the directory meanwhile, and no path exceeds the 108 bytes
that unix(7) allows.
Rule 2: only who holds the lock removes or makes the socket, so that what a killed process
left is replaced, and never what a live one uses. The kernel drops the lock of a killed one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator

try:  # as `random` of the standard library does: hashlib loads OpenSSL, which takes 3 ms
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as _sha256

SLOTS = 16
"""Ends of one role and tunnel that have a control socket at once, on one host."""
BACKLOG = 1024
MODE = 0o600


_ELSEWHERE = "set XDG_RUNTIME_DIR to a directory of your own on a disk of this host"


class Unsafe(Exception):
    """A directory that is not private; `str()` is one sentence for people."""


def directories() -> list[str]:
    """Return where control sockets may be, the preferred place first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # a login session has the variable and another one not, so that all are looked at
    found = [os.path.join(runtime, "muxfs")] if os.path.isabs(runtime) else []
    return [*found, f"/tmp/muxfs-{os.geteuid()}"]  # noqa: S108  (checked by `opened`)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Give a descriptor of a private directory. Raises Unsafe; OSError if there is none."""
    descriptor = open_directory(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(path: str) -> int:
    """Return a descriptor of a private directory. Raises Unsafe; OSError if there is none."""
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except NotADirectoryError as error:  # also said of a symbolic link
        raise Unsafe(f"{path} is not a directory; {_ELSEWHERE}") from error
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        os.close(descriptor)
        raise Unsafe(f"{path} belongs to another user (uid {found.st_uid}); {_ELSEWHERE}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise Unsafe(f"others have access to {path}; mend it with: chmod 700 {path}")
    return descriptor


def make_directory(suitable: Callable[[str], bool] = lambda _: True) -> str:
    """Make the first directory that can be private and is `suitable`, and return its path.

    Raises Unsafe, OSError: what is wrong with the last one.
    """
    wrong: Exception = FileNotFoundError("no directory")
    for path in directories():
        try:
            if suitable(os.path.dirname(path)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                with opened(path):
                    return path
            words = f"{path} would be on a filesystem that other hosts may share"
            wrong = Unsafe(f"{words}; {_ELSEWHERE}")
        except (Unsafe, OSError) as error:
            wrong = error
    raise wrong


def stem(tunnel: str, role: str, slot: int) -> str:
    """Return the name, without its extension, for an end of the tunnel with that real path."""
    return f"{_sha256(os.fsencode(tunnel)).hexdigest()[:24]}-{role}-{slot}"


def address(directory: int, name: str) -> str:
    """Return what to bind or connect to, for a name in an opened directory."""
    return f"/proc/self/fd/{directory}/{name}"


class Place:
    """One end's control socket, which is listening, and the lock that keeps it."""

    def __init__(self, path: str, name: str, held: int, listener: socket.socket) -> None:
        self.listener = listener
        self._path = path
        self._name = name
        self._lock = held
        self._identity = _identity(os.path.join(path, f"{name}.sock"))

    @classmethod
    def take(
        cls, tunnel: str, role: str, suitable: Callable[[str], bool] = lambda _: True
    ) -> Place:
        """Take a free place for an end of the tunnel with that real path, and listen there.

        Raises Unsafe, OSError.
        """
        path = make_directory(suitable)
        with opened(path) as directory:
            for slot in range(SLOTS):
                name = stem(tunnel, role, slot)
                try:
                    held = lock(directory, f"{name}.lock", wait=False)
                except BlockingIOError:
                    continue
                try:
                    taken = cls(path, name, held, _listen(directory, f"{name}.sock"))
                except BaseException:
                    os.close(held)
                    raise
                _sweep(directory, spared=stem(tunnel, role, slot=0).removesuffix("0"))
                return taken
        raise Unsafe(f"{SLOTS} others have a control socket for this tunnel on this host")

    @property
    def lost(self) -> bool:
        """Whether somebody removed the socket: logind and cleaners of /tmp do."""
        return _identity(os.path.join(self._path, f"{self._name}.sock")) != self._identity

    def leave(self) -> None:
        """Close the socket, and remove it and the lock."""
        self.listener.close()
        with contextlib.suppress(Unsafe, OSError), opened(self._path) as directory:
            if _is(directory, f"{self._name}.lock", self._lock):  # so the socket is ours, too
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._name}.sock", dir_fd=directory)
                os.unlink(f"{self._name}.lock", dir_fd=directory)
        os.close(self._lock)


def lock(directory: int, name: str, *, wait: bool) -> int:
    """Return a descriptor that holds the lock file `name`.

    Without `wait`, raises BlockingIOError if another process holds it.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, MODE, dir_fd=directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # its last owner may have removed it between our open and our lock
            if _is(directory, name, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _listen(directory: int, name: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)  # of a killed process: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address(directory, name))
        os.chmod(name, MODE, dir_fd=directory)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _sweep(directory: int, spared: str) -> None:
    """Remove what killed ends of other tunnels have left: on nodes of a cluster each job's.

    Who looks for a place for the tunnel itself must not find one held without need.
    """
    for lock_name in os.listdir(directory):
        name = lock_name.removesuffix(".lock")
        if name == lock_name or name.startswith(spared):
            continue
        with contextlib.suppress(OSError):  # its owner lives, or has just gone
            held = lock(directory, lock_name, wait=False)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{name}.sock", dir_fd=directory)
                os.unlink(lock_name, dir_fd=directory)
            finally:
                os.close(held)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is(directory: int, name: str, descriptor: int) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))
