"""Real clients against each kind of forward, with both ends as processes of their own."""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.ports import unused_port

from .net import connect, echo, receive_all, receive_exactly, serve
from .process import Side, Tunnel, also_sealed

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
PAGE = b"<p>" + bytes(range(32, 127)) * 3000 + b"</p>"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


async def run(*argv: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run a client; return its exit status, and what it says."""
    with trio.fail_after(60):
        done = await trio.run_process(
            argv, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout, done.stderr.decode()


async def web(stream: trio.SocketStream) -> None:
    """Serve PAGE to one request of HTTP/1.1."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = await stream.receive_some()
        if not data:
            return
        request += data
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PAGE)}\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode() + PAGE)
    await stream.send_eof()


async def forwarded(tunnel: Tunnel, *options: str, dial: tuple[str, ...] = ()) -> Side:
    """Start both ends; return the listening one, when its forwards work."""
    listen = await tunnel.run("listen", *options)
    other = await tunnel.run("dial", *dial)
    await listen.event("established")
    await other.event("established")
    return listen


# Proxies


@also_sealed
@needs("curl")
@pytest.mark.parametrize(
    ("option", "proxy"),
    [
        ("-D", ("--socks4", "127.0.0.1:{}")),
        ("-D", ("--socks4a", "127.0.0.1:{}")),
        ("-D", ("--socks5", "127.0.0.1:{}")),
        ("-D", ("--socks5-hostname", "127.0.0.1:{}")),
        ("-D", ("--socks5-hostname", "[::1]:{}")),
        ("--http-proxy", ("--proxytunnel", "--proxy", "http://127.0.0.1:{}")),
    ],
)
async def test_curl_through_a_proxy(tunnel: Tunnel, option: str, proxy: tuple[str, ...]) -> None:
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, web)
        listen = await forwarded(tunnel, option, "0")
        words = [word.format(await listen.port()) for word in proxy]
        for host in ("127.0.0.1", "localhost"):
            code, body, said = await run("curl", "-sS", *words, f"http://{host}:{port}/")
            assert (code, body) == (0, PAGE), said
        nursery.cancel_scope.cancel()


@needs("curl")
async def test_what_curl_is_told(tunnel: Tunnel) -> None:
    """Each refusal with its own code, and the words that mend it in the log."""
    closed = unused_port()
    allow = ("--allow", "localhost:*", "--allow", "*.invalid:*")
    listen = await forwarded(tunnel, "-D", "0", "--http-proxy", "0", dial=allow)
    socks, http = listen.ports()

    async def ask(target: str) -> list[str]:
        found = []
        for words in (
            ("--socks5-hostname", f"127.0.0.1:{socks}"),
            ("--socks4a", f"127.0.0.1:{socks}"),
            ("--proxytunnel", "--proxy", f"http://127.0.0.1:{http}"),
        ):
            code, _, said = await run("curl", "-sS", *words, f"http://{target}/")
            assert code
            found.append(said)
        return found

    refused = await ask(f"localhost:{closed}")
    assert "(5)" in refused[0]
    assert "91" in refused[1]
    assert "502" in refused[2]
    refused = await ask("db.example:5432")
    assert "(2)" in refused[0]
    assert "403" in refused[2]
    refused = await ask("no-such-name.invalid:80")
    assert "(4)" in refused[0]
    assert "502" in refused[2]
    reasons = {str(e["reason"]) for e in listen.events if e["event"] == "refused"}
    assert any(r.endswith("muxfs dial --allow db.example:5432 would allow it") for r in reasons)
    assert any("nothing is listening there" in reason for reason in reasons)
    assert any("this name is unknown" in reason for reason in reasons)
    code, body, _ = await run("curl", "-sS", "--proxy", f"http://127.0.0.1:{http}", "http://a/")
    assert code == 0
    assert body.startswith(b"muxfs: GET: this proxy serves CONNECT only")


@also_sealed
@needs("curl")
async def test_http_2(tunnel: Tunnel, tmp_path: Path) -> None:
    pytest.importorskip("hypercorn")
    (tmp_path / "app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        head = {'type': 'http.response.start', 'status': 200, 'headers': []}\n"
        "        await send(head)\n"
        "        text = 200_000 * (scope['http_version'] + ' ' + scope['path'])\n"
        "        await send({'type': 'http.response.body', 'body': text.encode()})\n"
    )
    port = unused_port()
    # in one process: workers would outlive it
    server = [sys.executable, "-m", "hypercorn", "--workers", "0"]
    server += ["-b", f"127.0.0.1:{port}", "app:app"]
    process = await trio.lowlevel.open_process(server, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(60):
            while True:
                try:
                    await (await connect(port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.05)
        listen = await forwarded(tunnel, f"0:{port}", "-D", "0")
        direct, socks = listen.ports()
        http2 = ("curl", "-sS", "--http2-prior-knowledge")
        for words in (
            (f"http://127.0.0.1:{direct}/x",),
            ("--socks5-hostname", f"127.0.0.1:{socks}", f"http://localhost:{port}/x"),
        ):
            _, body, said = await run(*http2, *words)
            assert body == 200_000 * b"2 /x", said
    finally:
        process.kill()
        await process.wait()


@also_sealed
async def test_websockets_through_a_proxy(tunnel: Tunnel) -> None:
    websocket = pytest.importorskip("trio_websocket")

    async def answer(request: object) -> None:
        ws = await request.accept()  # type: ignore[attr-defined]
        try:
            while True:
                await ws.send_message(await ws.get_message())
        except websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(websocket.serve_websocket, answer, "127.0.0.1", 0, None)
        target = f"localhost:{server.port}"
        listen = await forwarded(tunnel, "--http-proxy", "0")
        stream = await connect(await listen.port())
        await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        assert await receive_exactly(stream, len(CONNECTED)) == CONNECTED
        client = await websocket.wrap_client_stream(nursery, stream, target, "/")
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20):
            await client.send_message(bytes(size))
            assert await client.get_message() == bytes(size)
        await client.aclose()
        nursery.cancel_scope.cancel()


@also_sealed
@pytest.mark.parametrize("option", ["--http-proxy", "-D"])
async def test_400_short_requests_from_32_workers_are_400_dials(
    tunnel: Tunnel, option: str
) -> None:
    """Nothing is dialled twice, and nobody gets another one's answer."""
    dials = 0

    async def server(stream: trio.SocketStream) -> None:
        nonlocal dials
        dials += 1
        await echo(stream)

    async def request(number: int) -> None:
        payload = hashlib.sha256(b"%d" % number).digest() * 32
        async with await connect(proxy) as stream:
            if option == "-D":
                await stream.send_all(b"\x04\x01" + struct.pack("!H", port) + b"\x7f\0\0\1\0")
                assert (await receive_exactly(stream, 8))[:2] == b"\0\x5a"
            else:
                target = f"127.0.0.1:{port}"
                await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert await receive_exactly(stream, len(CONNECTED)) == CONNECTED
            await stream.send_all(payload)
            await stream.send_eof()
            assert await receive_all(stream) == payload

    async def worker() -> None:
        while numbers:
            await request(numbers.pop())

    numbers = list(range(400))
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, server)
        listen = await forwarded(tunnel, option, "0")
        proxy = await listen.port()
        async with trio.open_nursery() as workers:
            for _ in range(32):
                workers.start_soon(worker)
        assert dials == 400
        nursery.cancel_scope.cancel()


# Unix sockets


@also_sealed
@needs("nc")
async def test_netcat_with_unix_sockets_at_both_ends(tunnel: Tunnel, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(here))  # left over by a process that was killed
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(_listen_unix(there))
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        listen = await forwarded(tunnel, "-L", f"{here}:{there}", dial=("--allow", str(there)))
        payload = bytes(range(256)) * 4000
        code, body, said = await run("nc", "-N", "-U", str(here), stdin=payload)
        assert (code, body) == (0, payload), said
        await listen.terminate()
        assert not here.exists()
        nursery.cancel_scope.cancel()


def _listen_unix(path: Path) -> trio.socket.SocketType:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)


# UDP


@asynccontextmanager
async def name_server() -> AsyncIterator[int]:
    """Answer each DNS query for an address with 192.0.2.7, and for text with 1,000 bytes."""

    async def serve() -> None:
        while True:
            query, client = await sock.recvfrom(65535)
            end = query.index(b"\0", 12) + 5
            kind = query[end - 4 : end - 2]
            data = b"\xc0\0\2\x07" if kind == b"\0\1" else (b"\xfa" + b"x" * 250) * 4
            head = query[:2] + b"\x84\0\0\1\0\1\0\0\0\0" + query[12:end]
            record = b"\xc0\x0c" + kind + b"\0\1\0\0\0\x3c" + struct.pack("!H", len(data))
            await sock.sendto(head + record + data, client)

    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield sock.getsockname()[1]
            nursery.cancel_scope.cancel()


@also_sealed
@needs("dig")
async def test_dig_through_a_udp_forward(tunnel: Tunnel) -> None:
    async with name_server() as server:
        listen = await forwarded(tunnel, "-U", f"0:localhost:{server}")
        words = ("dig", "@127.0.0.1", "-p", str(await listen.port()), "+short", "+notcp", "+ignore")
        for _ in range(10):
            code, body, said = await run(*words, "login.example", "A")
            assert (code, body) == (0, b"192.0.2.7\n"), said
        code, body, said = await run(*words, "login.example", "TXT")
        assert (code, body.count(b"x")) == (0, 1000), said


# Listeners on the far side


@also_sealed
@needs("curl")
async def test_listeners_on_the_far_side_survive_a_restart(tunnel: Tunnel) -> None:
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, web)
        options = ("--allow-listen", "1024-65535", "--allow", f"localhost:{port}")
        listen = await tunnel.run("listen", *options)
        dial = await tunnel.run("dial", "-R", f"0:{port}", "-R", "0")
        seen = 0
        for life in range(2):
            bound = {}
            while len(bound) < 2:
                event = await dial.event("remote-listening", after=seen)
                seen = dial.events.index(event, seen) + 1
                bound[event["forward"]] = event["bound"]
            plain, socks = bound[f"-R 0:localhost:{port}"], bound["-R 0"]
            code, body, said = await run("curl", "-sS", f"http://{plain}/")
            assert (code, body) == (0, PAGE), said
            code, body, said = await run(
                "curl", "-sS", "--socks5-hostname", socks, f"http://localhost:{port}/"
            )
            assert (code, body) == (0, PAGE), said
            if not life:
                listen.kill()
                await listen.process.wait()
                listen = await tunnel.run("listen", *options)
        nursery.cancel_scope.cancel()


async def test_the_far_side_is_told_what_would_allow_its_listener(tunnel: Tunnel) -> None:
    listen = await tunnel.run("listen", "--allow", "localhost:1")
    dial = await tunnel.run("dial", "-R", "18001:8000")
    refused = await dial.event("remote-refused")
    assert refused["code"] == "PROHIBITED"
    assert refused["reason"] == (
        "18001: not allowed; muxfs listen --allow-listen 18001 would allow it"
    )
    assert (await listen.event("refused"))["reason"] == refused["reason"]


async def test_lists_as_of_slurm_spank_stunnel(tunnel: Tunnel) -> None:
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, echo)
        listen = await forwarded(tunnel, f"L0:localhost:{port},R0:localhost:{port}")
        there = await listen.event("remote-listening")
        for number in (await listen.port(), int(there["bound"].rpartition(":")[2])):
            async with await connect(number) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert await receive_all(stream) == b"hello"
        nursery.cancel_scope.cancel()


@also_sealed
async def test_forwards_of_the_dialling_end(tunnel: Tunnel) -> None:
    """Such as a job that wants out through the login node."""
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, echo)
        listen = await tunnel.run("listen", "--allow", f"localhost:{port}")
        dial = await tunnel.run("dial", "-L", f"0:localhost:{port}", "-L", "0:localhost:1")
        await dial.event("established")
        allowed, refused = dial.ports()
        async with await connect(allowed) as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await receive_all(stream) == b"hello"
        stream = await connect(refused)
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(stream)
        await stream.aclose()
        event = await dial.event("refused")
        assert event["reason"].endswith("muxfs listen --allow localhost:1 would allow it")
        assert (await listen.event("refused"))["reason"] == event["reason"]
        nursery.cancel_scope.cancel()
