"""Every code block of docs/embedding.md is run."""

from __future__ import annotations

import inspect
import re
import ssl
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

import muxfs
from muxfs import Code, MuxStream
from muxfs.sealing.files import create_key
from tests.session.tunnel import Tunnel, open_tunnel

TEXT = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
BLOCKS = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))


def module(name: str) -> Any:
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(BLOCKS[name], f"docs/embedding.md: {name}", "exec"), vars(made))
    return made


@pytest.fixture
def words() -> Iterator[Any]:
    yield module("words")
    del sys.modules["words"]


def test_no_block_is_left_out() -> None:
    assert set(BLOCKS) == {"words", "errors", "test_words", "sealed", "tls", "httpx_recipe"}
    assert TEXT.count("```python") == len(BLOCKS)


async def test_the_program_over_real_files(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(words.main, "dial", str(tmp_path))
        await words.main("listen", str(tmp_path))
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out.splitlines()[-1] == "6"


def test_its_tests(words: Any) -> None:
    tests = module("test_words")
    found = [test for name, test in vars(tests).items() if name.startswith("test_")]
    assert len(found) == 3
    for test in found:
        assert inspect.iscoroutinefunction(test)
        trio.run(test, None, clock=MockClock(autojump_threshold=0))
    del sys.modules["test_words"]


async def test_errors(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    ask_politely = module("errors").ask_politely
    listener = tunnel.dial.listen(auto_accept=False)

    async def answer() -> None:
        await (await listener.accept()).refuse(Code.PROHIBITED, "not today")
        await (await listener.accept()).accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await ask_politely(tunnel.listen) == "refused (PROHIBITED): not today"
        assert await ask_politely(tunnel.listen) == "accepted"


async def test_tls(autojump_clock: MockClock, tunnel: Tunnel) -> None:
    tls = module("tls")
    authority = trustme.CA()
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.issue_cert("node17").configure_cert(server)

    async def shout(stream: trio.SSLStream[MuxStream]) -> None:
        await stream.send_all((await stream.receive_some()).upper())

    async with trio.open_nursery() as nursery:
        listener = tls.listen_tls(tunnel.dial, server)
        await nursery.start(trio.serve_listeners, shout, [listener])
        stream = await tls.open_tls(tunnel.listen, client, "node17")
        await stream.send_all(b"private")
        assert await stream.receive_some() == b"PRIVATE"
        nursery.cancel_scope.cancel()


async def test_sealed(autojump_clock: MockClock, tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    config = module("sealed").sealed(str(tmp_path / "key"))
    async with open_tunnel(key=config.key) as tunnel:
        assert (await tunnel.dial.wait_established()).host


@pytest.mark.skipif(find_spec("httpx") is None, reason="httpx is not installed")
async def test_httpx() -> None:
    async def serve(stream: MuxStream) -> None:
        request = await stream.receive_some()
        assert request.startswith(b"GET /status HTTP/1.1\r\n")
        body = stream.target.encode()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await trio.sleep_forever()

    recipe = module("httpx_recipe")
    async with open_tunnel() as tunnel, trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [tunnel.dial.listen()])
        async with recipe.client(tunnel.listen) as client:
            reply = await client.get("http://localhost:8888/status")
            assert reply.text == "localhost:8888"
        nursery.cancel_scope.cancel()


def test_the_names_that_the_text_uses_exist() -> None:
    for name in re.findall(r"`muxfs\.([A-Z]\w+)", TEXT):
        assert hasattr(muxfs, name)
