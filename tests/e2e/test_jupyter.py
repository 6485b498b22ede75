"""The main job on real input: JupyterLab behind `muxfs dial`, reached through `muxfs listen`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from .browser import Browser, execute
from .process import Tunnel

TOKEN = "8f2c1d"  # of a server that lives for one test, on loopback
LARGE = 4 << 20

JUPYTER = os.environ.get("MUXFS_JUPYTER") or shutil.which("jupyter-lab")

pytestmark = pytest.mark.skipif(
    JUPYTER is None, reason="JupyterLab is not installed (jupyter-lab on PATH, or MUXFS_JUPYTER)"
)


def advertised_port(runtime: Path) -> int | None:
    """Return the port that a server has written down, if it has."""
    for path in runtime.glob("jpserver-*.json"):
        with contextlib.suppress(ValueError):  # half written
            return int(json.loads(path.read_text())["port"])
    return None


async def ready_port(process: trio.Process, runtime: Path) -> int:
    """Wait until the server accepts connections; return its port."""
    with trio.fail_after(60):
        while True:
            assert process.poll() is None, "JupyterLab does not start"
            if port := advertised_port(runtime):
                with contextlib.suppress(OSError):
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    return port
            await trio.sleep(0.1)


@pytest.fixture
async def jupyter(tmp_path: Path) -> AsyncIterator[int]:
    """Give the port of a fresh JupyterLab that knows nothing of this user's settings."""
    assert JUPYTER is not None
    home, log = tmp_path / "home", tmp_path / "jupyter.log"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")
    }
    environment |= {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    environment |= {"JUPYTER_CONFIG_DIR": str(home / "config"), "IPYTHONDIR": str(home / "ipython")}
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={home}",
        f"--IdentityProvider.token={TOKEN}",
        "--ZMQChannelsWebsocketConnection.iopub_data_rate_limit=1e10",
        "--LabApp.news_url=None",
    ]
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [JUPYTER, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        yield await ready_port(process, home / "runtime")
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(20):
                await process.wait()
            process.kill()
            await process.wait()
            print(log.read_text())


def work(direct: int, tunnelled: int) -> None:
    """Log in, load the Lab, run cells; all of it through the tunnel."""
    browser = Browser(tunnelled)
    browser.login(TOKEN)
    scripts = browser.static_files()
    assert scripts
    for script in scripts:
        there, here = (Browser(port).request("GET", script) for port in (direct, tunnelled))
        assert here[0] == 200
        assert here == there

    kernel = browser.start_kernel()
    channels = browser.channels(kernel)
    try:
        assert execute(channels, "print(6 * 7)") == "42\n"
        code = f"print(''.join(str(n) + ' ' for n in range(10**6))[:{LARGE}], end='')"
        expected = "".join(f"{n} " for n in range(10**6))[:LARGE]
        printed = execute(channels, code)
        assert hashlib.sha256(printed.encode()).digest() == sha256(expected)
        large = (
            f"import hashlib\ntext = {expected!r}\nprint(hashlib.sha256(text.encode()).hexdigest())"
        )
        assert execute(channels, large).strip() == sha256(expected).hex()
    finally:
        channels.close()
    browser.stop_kernel(kernel)


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


async def test_jupyterlab(tunnel: Tunnel, jupyter: int) -> None:
    """Log in, load the Lab's scripts, run cells over a kernel's websocket, read large output."""
    listen, _ = await tunnel.connect(jupyter)
    port = await listen.port()
    await trio.to_thread.run_sync(work, jupyter, port, abandon_on_cancel=True)
