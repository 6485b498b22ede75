"""A stand-in for the method of FileForward, for the comparison only: not that program.

    python -m bench.fileforward listen|dial DIRECTORY PORT

One file for each connection and direction. What is to be sent is appended in pieces of 4 KiB
under a lock (lockf), with an fsync; the other side looks every 50 ms, reads what is there in
pieces of 4 KiB under the same lock, and truncates the file. New connections are found by
listing the directory every 50 ms. Its files are bounded here, so that a stream that is longer
than the memory ends; and an empty `.end` file tells a half-closed connection. A reader whose
connection is gone removes its file, which ends the writer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

POLL = 0.05
PIECE = 4096
BOUND = 64 << 20


def lock(descriptor: int) -> None:
    """Wait for the lock of a file.

    To the kernel a process is one owner, whatever its threads wait for: two processes whose
    threads wait for two different files of each other look like a deadlock to it, and are none.
    """
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno != errno.EDEADLK:
                raise
            time.sleep(0.001)
        else:
            return


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Open a file under its lock. FileNotFoundError: its reader wants no more of it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        lock(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)  # which unlocks it


def end_of(path: Path) -> Path:
    """Return the file that tells of the end of a direction."""
    return path.with_name(path.name + ".end")


def write_out(connection: socket.socket, path: Path) -> None:
    """Append what comes from a connection, until that ends or nobody reads."""
    try:
        while data := connection.recv(PIECE):
            with locked(path) as descriptor:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                os.write(descriptor, data)
                os.fsync(descriptor)
            while size > BOUND:
                time.sleep(POLL)
                size = path.stat().st_size
    finally:
        if path.exists():
            end_of(path).touch()


def read_in(connection: socket.socket, path: Path) -> None:
    """Send what the other side appends, until that ends or nobody takes it; remove the file."""
    try:
        ended, pieces = False, [b""]
        while pieces or not ended:
            ended = end_of(path).exists()  # before the look at what is there
            pieces = []
            with locked(path) as descriptor:
                while piece := os.read(descriptor, PIECE):
                    pieces.append(piece)
                os.ftruncate(descriptor, 0)
            for piece in pieces:
                connection.sendall(piece)
            time.sleep(POLL)
        connection.shutdown(socket.SHUT_WR)
    finally:
        path.unlink(missing_ok=True)
        end_of(path).unlink(missing_ok=True)


Carry = Callable[[socket.socket, Path], None]


def _guarded(work: Carry, connection: socket.socket, path: Path) -> None:
    with contextlib.suppress(OSError):
        work(connection, path)


def carry(connection: socket.socket, name: Path, outgoing: str, incoming: str) -> None:
    """Carry both directions."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    own, other = name.with_suffix(outgoing), name.with_suffix(incoming)
    writer = threading.Thread(target=_guarded, args=(write_out, connection, own), daemon=True)
    writer.start()
    _guarded(read_in, connection, other)
    writer.join()
    connection.close()


def listen(directory: Path, port: int) -> None:
    """Accept connections; each makes a pair of files."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            name = directory / uuid.uuid4().hex
            for suffix in (".down", ".up"):  # the one that is looked for comes last
                name.with_suffix(suffix).touch()
            arguments = (connection, name, ".up", ".down")
            threading.Thread(target=carry, args=arguments, daemon=True).start()


def dial(directory: Path, port: int) -> None:
    """Look for new pairs of files, and connect for each."""
    known: set[str] = set()
    while True:
        for entry in directory.iterdir():
            if entry.suffix == ".up" and entry.stem not in known:
                known.add(entry.stem)
                connection = socket.create_connection(("127.0.0.1", port))
                arguments = (connection, entry.with_suffix(""), ".down", ".up")
                threading.Thread(target=carry, args=arguments, daemon=True).start()
        time.sleep(POLL)


if __name__ == "__main__":
    (listen if sys.argv[1] == "listen" else dial)(Path(sys.argv[2]), int(sys.argv[3]))
