"""What `muxfs demo` does: both ends as two processes, a web server, and a client."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import queue
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

import attrs
from xxhash import xxh3_128

from muxfs.cli.failures import UNAVAILABLE, Failure, exit_code_of
from muxfs.errors import UnusableKey
from muxfs.sealing.files import create_key
from muxfs.sealing.key import make_sealer
from muxfs.storage.filesystem import find_filesystem
from muxfs.units import amount, span

MEMORY_DIRECTORY: Final = "/dev/shm"  # noqa: S108  (a private directory is made in it)
ROOM: Final = 64 << 20
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 15.0
TRANSFER_TIMEOUT: Final = 60.0
ECHOES: Final = 1000
BLOCK: Final = 1 << 20
PAGE: Final = b"<!doctype html><title>muxfs</title><h1>Hello through two files</h1>\n"
DIFFERENCE: Final = 1


class _Difference(Exception):
    """What came out of the tunnel is not what went in."""


def run(size: int, parent: str | None, *, sealed: bool = False) -> int:
    """Run the demo; return the exit code. Raises Failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = _make_directory(parent)
    print("muxfs demo: a web server, reached through two files and nothing else\n")
    _line("directory", f"{directory} on {find_filesystem(directory).describe()}")
    try:
        options = _make_key(directory) if sealed else []
        with _Services() as services:
            _show(services, directory, size, options)
    except _Difference as difference:
        print(f"\nThe demo FAILED: {difference}")
        return DIFFERENCE
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"the demo failed: {error or type(error).__name__}", UNAVAILABLE) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nEvery byte was right. Now with two hosts that share a directory:")
    print("  where the clients are:   muxfs listen job42 8888")
    print("  where the service is:    muxfs dial job42 8888")
    return 0


def _make_directory(parent: str | None) -> str:
    if parent is None and _has_room(MEMORY_DIRECTORY):
        parent = MEMORY_DIRECTORY
    try:
        return tempfile.mkdtemp(prefix="muxfs-demo-", dir=parent)
    except OSError as error:
        words = f"cannot make a directory in {parent or tempfile.gettempdir()}: {error.strerror}"
        raise Failure(words, exit_code_of(error)) from error


def _make_key(directory: str) -> list[str]:
    """Make a key; return the options of both ends."""
    path = os.path.join(directory, "key")
    try:
        make_sealer(create_key(path))
    except UnusableKey as error:
        raise Failure(str(error), error.exit_code) from error
    return ["--key-file", path]


def _has_room(path: str) -> bool:
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= ROOM and os.access(path, os.W_OK | os.X_OK)


def _show(services: _Services, directory: str, size: int, options: list[str]) -> None:
    tunnel = os.path.join(directory, "tunnel")
    started = time.monotonic()
    with _Ends(directory) as ends:
        forwards = f"0:{services.web_port}", f"0:{services.echo_port}"
        ends.start("listen", tunnel, *forwards, *options)
        web, echo = (int(str(ends.event("listening")["port"])) for _ in range(2))
        ends.start("dial", tunnel, str(services.web_port), str(services.echo_port), *options)
        ends.event("established")
        _line("connected", f"after {span(time.monotonic() - started)}")
        _line("web page", _fetch_page(web))
        _line(amount(size), _fetch_file(services, web, size))
        _line("round trip", _measure_echo(echo))
        files = (os.path.join(d, f) for d, _, fs in os.walk(tunnel) for f in fs)
        _line("carried by", ", ".join(sorted(os.path.relpath(f, directory) for f in files)))


def _line(name: str, text: str) -> None:
    print(f"  {name:<12} {text}", flush=True)


# The client


def _fetch_page(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TRANSFER_TIMEOUT)
    connection.request("GET", "/")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != http.client.OK or body != PAGE:
        raise _Difference(f"GET / gave {response.status} and {len(body)} bytes")
    return f"GET http://127.0.0.1:{port}/ -> {response.status} {response.reason}, {len(body)} bytes"


def _fetch_file(services: _Services, port: int, size: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TRANSFER_TIMEOUT)
    start = time.monotonic()
    connection.request("GET", f"/data/{size}")
    response = connection.getresponse()
    digest, buffer, count = xxh3_128(), memoryview(bytearray(BLOCK)), 0
    while got := response.readinto(buffer):
        digest.update(buffer[:got])
        count += got
    duration = time.monotonic() - start
    connection.close()
    if count != size:
        raise _Difference(f"{count} of {size} bytes arrived")
    sent = services.sent_digest()
    if digest.hexdigest() != sent:
        raise _Difference(f"xxh3 of what was sent is {sent}, of what arrived {digest.hexdigest()}")
    return f"{amount(count / duration)}/s; both sides' xxh3 is {digest.hexdigest()}"


def _measure_echo(port: int) -> str:
    times = []
    with socket.create_connection(("127.0.0.1", port), timeout=TRANSFER_TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(ECHOES):
            start = time.perf_counter()
            connection.sendall(bytes([number % 256]))
            if connection.recv(1) != bytes([number % 256]):
                raise _Difference("a wrong byte came back")
            times.append(time.perf_counter() - start)
    return f"{span(statistics.median(times))} (median of {ECHOES} echoes of one byte)"


# The services


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TRANSFER_TIMEOUT

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _WebServer)  # noqa: S101
        kind, _, size = self.path.removeprefix("/").partition("/")
        length = int(size) if kind == "data" and size.isdecimal() else len(PAGE)
        self.send_response(http.client.OK)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if kind == "data":
            server.digests.put(_send_data(self.wfile.write, length))
        else:
            self.wfile.write(PAGE)

    def handle_one_request(self) -> None:
        """Handle a request; that its client went away is the client's affair."""
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Be silent."""


def _send_data(write: Callable[[memoryview], object], length: int) -> str:
    """Send random blocks, each with its number; return the digest."""
    digest, block = xxh3_128(), bytearray(os.urandom(BLOCK))
    for number, at in enumerate(range(0, length, BLOCK)):
        block[:8] = number.to_bytes(8, "big")
        piece = memoryview(block)[: length - at]
        digest.update(piece)
        write(piece)
    return digest.hexdigest()


class _WebServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.digests: queue.SimpleQueue[str] = queue.SimpleQueue()


class _Services:
    """A web server and an echo server, in threads."""

    def __enter__(self) -> Self:
        self._web = _WebServer()
        self._echo = socket.create_server(("127.0.0.1", 0))
        self.web_port = self._web.server_port
        self.echo_port = int(self._echo.getsockname()[1])
        for job in (self._web.serve_forever, self._serve_echo):
            threading.Thread(target=job, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._web.shutdown()
        self._web.server_close()
        self._echo.close()

    def sent_digest(self) -> str:
        """Return what the web server computed over the file that it sent."""
        return self._web.digests.get(timeout=TRANSFER_TIMEOUT)

    def _serve_echo(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._echo.accept()
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while data := connection.recv(64):
                        connection.sendall(data)


# The two ends


@attrs.define
class _Ends:
    """Both ends as processes of their own."""

    directory: str
    _processes: list[subprocess.Popen[str]] = attrs.field(factory=list)
    _watchdog: threading.Timer | None = None

    def __enter__(self) -> Self:
        # a start that hangs is ended, and then told as an end of the process's output
        self._watchdog = threading.Timer(START_TIMEOUT, self._kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_watchdog()
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.stdout is not None:
                process.stdout.close()

    def start(self, role: str, *arguments: str) -> None:
        """Start one end."""
        _line("running", " ".join(["muxfs", role, *arguments]))
        command = [sys.executable, "-m", "muxfs", role, *arguments, "--json"]
        self._processes.append(
            subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
        )

    def event(self, name: str) -> dict[str, object]:
        """Wait for an event of the end that was started last. Raises OSError if that ends."""
        for event in self._events():
            if event.get("event") == name:
                if name == "established":
                    self._stop_watchdog()
                return event
        raise OSError(f"one end gave no sign of {name!r} within {span(START_TIMEOUT)}")

    def _events(self) -> Iterator[dict[str, object]]:
        output = self._processes[-1].stdout
        while output is not None and (line := output.readline()):
            yield json.loads(line)

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
