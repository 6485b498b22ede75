"""A service in a job, and its visitor: both check every byte.

python -m tests.slurm.service PORT             greet with where this is, then echo
python -m tests.slurm.service visit PORT       print the greeting, once an echo was right
python -m tests.slurm.service visit PORT HOST
python -m tests.slurm.service hold PORT        echo a line every 0.1 s until the end; say how
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time

SIZE = 1 << 20
PATIENCE = 60.0
"""Seconds without a byte."""


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    match arguments:
        case ["visit", port, *host]:
            print(visit(int(port), *host))
        case ["hold", port]:
            hold(int(port))
        case [port]:
            serve(int(port))


def serve(port: int) -> None:
    """Serve on loopback until killed."""
    where = {
        "host": os.uname().nodename,
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }
    greeting = json.dumps(where).encode() + b"\n"
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=echo, args=(connection, greeting)).start()


def echo(connection: socket.socket, greeting: bytes) -> None:
    """Serve one visitor."""
    with connection:
        try:
            connection.sendall(greeting)
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone


def visit(port: int, host: str = "127.0.0.1") -> str:
    """Send SIZE bytes, check that they come back, and return the greeting."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        sent = hashlib.shake_128(os.urandom(16)).digest(SIZE)

        def send() -> None:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        with connection.makefile("rb") as file:
            greeting = file.readline().decode().strip()
            sender = threading.Thread(target=send)
            sender.start()
            received = file.read()
            sender.join()
    if received != sent:
        raise SystemExit(f"{len(received)} of {SIZE} bytes came back, or other ones")
    return greeting


def hold(port: int) -> None:
    """Say "held" at the first echo, then how it ended: "end" or "reset"."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        file = connection.makefile("rwb")
        try:
            file.readline()
            for number in range(sys.maxsize):
                line = b"%d\n" % number
                file.write(line)
                file.flush()
                answer = file.readline()
                if not answer:
                    print("end", flush=True)
                    return
                if answer != line:
                    raise SystemExit(f"{line!r} came back as {answer!r}")
                if not number:
                    print("held", flush=True)
                time.sleep(0.1)
        except ConnectionError:
            print("reset", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
