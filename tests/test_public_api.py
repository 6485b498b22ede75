"""The names that `import muxfs` promises."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import trio

import muxfs
import muxfs.testing

USER = """
from __future__ import annotations

import trio
import muxfs
from muxfs.testing import MemoryFilesystem
from typing import assert_type


async def serve(stream: muxfs.MuxStream) -> None:
    data: bytes = await stream.receive_some()
    await stream.send_all(data)


async def main() -> None:
    config = muxfs.SessionConfig(poll=muxfs.PollPolicy(maximum=2.0), label="job")
    async with muxfs.open_session("/shared/job", role="dial", config=config) as session:
        assert_type(session, muxfs.Session)
        assert_type(await session.wait_established(), muxfs.PeerInfo)
        stream = await session.open_stream("localhost:1")
        assert_type(stream, muxfs.MuxStream)
        half: trio.abc.HalfCloseableStream = stream
        listener: trio.abc.Listener[muxfs.MuxStream] = session.listen()
        await trio.serve_listeners(serve, [listener])
        async for change in session.changes():
            if isinstance(change, muxfs.Lost):
                assert_type(change.code, muxfs.Code)
        try:
            await half.send_eof()
        except muxfs.StreamRefused as refused:
            assert_type(refused.code, muxfs.Code)
    fs = MemoryFilesystem(latency=0.1)
    storage = fs.storage("listen.mbx", "dial.mbx")
    async with muxfs.open_session("", role="listen", storage=storage) as session:
        assert_type(session.stats().round_trip, float | None)
"""


def test_all_is_what_is_loaded_lazily() -> None:
    assert set(muxfs.__all__) == set(muxfs._MODULE_OF) | {"__version__"}
    assert muxfs.__all__ == sorted(muxfs.__all__)
    assert dir(muxfs) == muxfs.__all__


@pytest.mark.parametrize("name", muxfs.__all__)
def test_every_name_leads_somewhere(name: str) -> None:
    thing = getattr(muxfs, name)
    if name in muxfs._MODULE_OF and isinstance(thing, type):
        assert thing.__name__ in {name, "State"}


def test_type_checkers_see_the_same_names() -> None:
    text = Path(muxfs.__file__).read_text()
    block = text.partition("if TYPE_CHECKING:")[2].partition("_HOMES")[0]
    for module, names in muxfs._HOMES.items():
        assert f"from {module} import" in block
        assert all(name in block for name in names)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tunnel'"):
        muxfs.Tunnel  # noqa: B018


@pytest.mark.parametrize("name", muxfs.__all__)
def test_what_is_public_is_documented(name: str) -> None:
    thing = getattr(muxfs, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not method.startswith("_") and inspect.isfunction(value):
                assert inspect.getdoc(value), f"{name}.{method}"


@pytest.mark.parametrize("thing", [muxfs.Session, muxfs.MuxStream, muxfs.MuxListener])
def test_what_is_public_is_typed(thing: type) -> None:
    for name, function in vars(thing).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            signature = inspect.signature(function)
            assert signature.return_annotation is not inspect.Signature.empty, name
            for parameter in list(signature.parameters.values())[1:]:
                assert parameter.annotation is not inspect.Parameter.empty, name
                assert "Any" not in str(parameter.annotation)


def test_streams_and_listeners_are_those_of_trio() -> None:
    assert issubclass(muxfs.MuxStream, trio.abc.HalfCloseableStream)
    assert issubclass(muxfs.MuxListener, trio.abc.Listener)
    assert typing.get_type_hints(muxfs.SessionConfig)["capacity"] is int


def test_a_users_program_passes_strict_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert (Path(muxfs.__file__).parent / "py.typed").exists()
    program = tmp_path / "program.py"
    program.write_text(USER)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file="),
            *("--cache-dir", str(tmp_path), str(program)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(muxfs.__file__).parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
