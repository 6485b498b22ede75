"""docs/architecture.md, held to: who imports whom, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import muxfs

ROOT = Path(muxfs.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

MOST_LINES = 780
MOST_LINES_OF_A_FUNCTION = 60

NOT_IN_THE_CORE = {"os", "time", "random", "logging", "socket", "threading", "secrets", "datetime"}
CORE_EXTRAS = {"attrs", "xxhash"}

ABOVE_FORWARDS = {"muxfs.endpoint", "muxfs.doctor", "muxfs.cli"}
ABOVE_SESSION = {"muxfs.forwards"} | ABOVE_FORWARDS

FORBIDDEN = {
    # layer: what it must not import
    "muxfs.core": {"muxfs", "trio"} | NOT_IN_THE_CORE,
    "muxfs.storage": {"muxfs.session", "muxfs.pump", "muxfs.stream"} | ABOVE_SESSION,
    "muxfs.escalation": {"muxfs.pump", "muxfs.session", "muxfs.stream"} | ABOVE_SESSION,
    "muxfs.sealing": {"trio", "muxfs.storage", "muxfs.pump", "muxfs.session", "muxfs.cli"},
    "muxfs.pump": {"muxfs.session", "muxfs.stream"} | ABOVE_SESSION,
    "muxfs.config": {"muxfs.session", "muxfs.stream"} | ABOVE_SESSION,
    "muxfs.session": ABOVE_SESSION,
    "muxfs.stream": ABOVE_SESSION,
    "muxfs.workload": ABOVE_SESSION,
    "muxfs.forwards": ABOVE_FORWARDS,
    "muxfs.endpoint": {"muxfs.doctor", "muxfs.cli"},
    "muxfs.slurm": {"muxfs.core", "muxfs.storage", "muxfs.session"} | ABOVE_FORWARDS,
    # what it measures, it measures without any session
    "muxfs.doctor": {"trio", "muxfs.session", "muxfs.pump", "muxfs.core"}
    | (ABOVE_SESSION - {"muxfs.doctor"}),
    # what speaks to an end is not part of it, and starts for each connection
    "muxfs.control": {
        *(f"muxfs.{name}" for name in ("core", "storage", "session", "stream", "pump")),
        *(f"muxfs.{name}" for name in ("config", "errors", "info", "forwards", "endpoint", "cli")),
        "trio",
        "attrs",
    },
}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that are imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str, layers: set[str]) -> str | None:
    return next((layer for layer in layers if is_in(name, layer)), None)


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, "muxfs.core")])
def test_the_core_imports_only_itself_and_the_pure_part_of_the_library(name: str) -> None:
    for imported in imports_of(TREES[name]):
        top = imported.partition(".")[0]
        if top == "muxfs":
            assert is_in(imported, "muxfs.core")
        else:
            assert top in (sys.stdlib_module_names | CORE_EXTRAS) - NOT_IN_THE_CORE


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name, set(FORBIDDEN))])
def test_layers_know_only_those_above_them(name: str) -> None:
    layer = layer_of(name, set(FORBIDDEN))
    assert layer is not None
    for imported in imports_of(TREES[name]):
        for forbidden in FORBIDDEN[layer] - {"muxfs"}:
            assert not is_in(imported, forbidden), f"{name} imports {imported}"


def test_nobody_imports_the_command_line() -> None:
    importers = {
        name
        for name, tree in TREES.items()
        if any(is_in(imported, "muxfs.cli") for imported in imports_of(tree))
    }
    assert all(is_in(name, "muxfs.cli") or name == "muxfs.__main__" for name in importers)


def test_dependencies_are_those_declared() -> None:
    found = {
        imported.partition(".")[0]
        for tree in TREES.values()
        for imported in imports_of(tree)
        if imported.partition(".")[0] not in sys.stdlib_module_names
    }
    found -= {"_sha2", "_sha256"}  # of the standard library from 3.12 on, and up to 3.11
    assert found <= {"muxfs", "trio", "attrs", "xxhash", "h11", "cryptography"}


def test_cryptography_is_imported_in_one_place_and_only_with_a_key() -> None:
    importers = {
        name
        for name, tree in TREES.items()
        if any(is_in(imported, "cryptography") for imported in imports_of(tree))
    }
    assert importers == {"muxfs.sealing.schedule"}
    loaded = modules_loaded_by("import muxfs.session, muxfs.config, muxfs.cli.settings")
    assert "cryptography" not in loaded


def test_no_wall_clock() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time"), name
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert all(alias.name != "time" for alias in node.names), name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_small(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MOST_LINES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name


def modules_loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import muxfs",
        "import muxfs.errors, muxfs.process",
        "from muxfs.cli import main; main(['--help'])",
        "from muxfs.cli import main; main([])",
        "import muxfs.cli.arguments",
        "import muxfs.cli.survey",
    ],
)
def test_a_light_start_imports_no_trio(code: str) -> None:
    assert modules_loaded_by(code).isdisjoint({"trio", "asyncio", "ssl", "muxfs.session"})


def test_stdio_starts_fast() -> None:
    """ssh starts it for each connection; where Python lies on NFS, each module costs round trips.

    Counted, since times depend on the machine: bench/startup.py measures them.
    """
    bare = modules_loaded_by("")
    loaded = modules_loaded_by(
        "from muxfs.cli import main; main(['stdio', '--persist', '0', './none', '1'])\n"
        "import muxfs.control.background, muxfs.control.copying"
    )
    slow = {"trio", "attr", "attrs", "xxhash", "asyncio", "ssl", "subprocess", "typing", "hashlib"}
    assert (loaded - bare).isdisjoint(slow)
    assert len(loaded - bare) < 100, sorted(loaded - bare)


def test_help_imports_nothing_of_the_protocol() -> None:
    loaded = modules_loaded_by("from muxfs.cli import main; main(['--help'])")
    assert loaded.isdisjoint({"attrs", "attr", "xxhash", "muxfs.core.wire", "argparse"})
