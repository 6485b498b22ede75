"""Help, version, and what they import."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys

import pytest

from muxfs.cli import COMMANDS, HELP, main
from muxfs.cli.arguments import Parser

SLURMS = ("srun", "sbatch", "salloc")
"""Commands whose --help is Slurm's; ours is `muxfs help srun`."""
HEAVY = ("trio", "attr", "attrs", "xxhash")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out == HELP


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", command]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: muxfs {command}")
    if command not in SLURMS:
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().out == text
    assert all(len(line) <= 88 for line in text.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_argument(command: str) -> None:
    module = importlib.import_module(f"muxfs.cli.{command}")
    parser = Parser(command, module.HELP)
    module.add_arguments(parser)
    for action in parser._actions:
        names = action.option_strings or [str(action.metavar)]
        for name in names:
            if not isinstance(action, argparse._HelpAction):
                assert name in module.HELP, f"{name} is not explained"


def test_the_overview_names_every_command() -> None:
    for command in COMMANDS:
        assert f"\n  {command} " in HELP or f"\n  {command}\n" in HELP


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["help"], *(["help", command] for command in COMMANDS), ["no-such-command"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What is imported is what people wait for when the program lies on a network filesystem."""
    program = (
        "import sys; from muxfs.cli import main; main(sys.argv[1:]); "
        f"print('\\nheavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("heavy: []\n")


def test_the_overview_does_without_argparse() -> None:
    program = "import sys; from muxfs.cli import main; main(['--help']); print(len(sys.modules))"
    bare = "import sys; print(len(sys.modules))"
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", text], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for text in (bare, program)
    ]
    assert counts[1] - counts[0] < 40


@pytest.mark.parametrize("command", ["status", "explain", "version"])
def test_commands_that_do_without_trio(command: str) -> None:
    program = (
        f"import sys; from muxfs.cli import main; main([{command!r}, *sys.argv[1:]]); "
        "print('\\ntrio' in sys.modules)"
    )
    arguments = ["/dev/null"] if command == "explain" else []
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import muxfs

    for arguments in (["version"], ["--version"], ["-V"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith(f"muxfs {muxfs.__version__} (protocol 1.0, ")
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["muxfs"] == muxfs.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lisen"], "'lisen' is not a command: listen, dial,"),
        (["listen"], "name the TUNNEL, or give --job JOBID"),
        (["listen", "t"], "nothing to do: give a FORWARD such as 8888 after the TUNNEL,"),
        (["listen", "t", "-D", "x"], "-D 'x' is not a forward: 'x' is not a port number from 0"),
        (["listen", "t", "-R", "1:2:3:4:5"], "-R '1:2:3:4:5' is not a forward: IPv6 addresses"),
        (["listen", "t", "-U", "1:/x"], "-U '1:/x' is not a forward: Unix sockets carry no"),
        (["dial", "t", "--allow", "a:b"], "--allow 'a:b' is not a pattern: 'b' is not a port"),
        (["dial", "t", "--allow", "10.*:1"], "'10.*': write a network, such as 10.1.0.0/16"),
        (["dial", "t", "--allow-listen", "9-8"], "--allow-listen '9-8' is not a pattern"),
        (["listen", "t", "x"], "'x' is not a forward: 'x' is not a port number from 1 to 65535"),
        (["listen", "t", "1", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["listen", "t", "1", "--ring", "16X"], "'16X' is not a size such as 256K"),
        (["listen", "t", "1", "--ring", "1K"], "--ring: 1.0 KiB is not from 256 KiB to 1.0 GiB"),
        (["listen", "t", "1", "--poll", "5"], "'5' is not MIN:MAX"),
        (["listen", "t", "1", "--poll", "9:5"], "MIN must be above 0 and not above MAX"),
        (["listen", "t", "1", "--connect-timeout", "0"], "must be more than zero"),
        (["listen", "t", "1", "--peer-timeout", "1y"], "'1y' is not a time such as 500ms"),
        (["listen", "t", "1", "--access", "magic"], "'magic' is not READ+WRITE"),
        (["listen", "..", "1"], "'..' is not a tunnel: give a name, or a path"),
        (["listen", "", "1"], "'' is not a tunnel"),
        (["listen", "t", "1", "-v", "-q"], "not allowed with argument"),
        (["dial", "t", "a:b:c"], "'a:b:c' is not a target: it must be PORT, HOST:PORT or /SOCKET"),
        (["demo", "--size", "?"], "'?' is not a size"),
        (["help", "nothing"], "'nothing' is not a command"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One plain line, exit code 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("muxfs: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1
