"""The plugin's own part: the list, parsed in C, and how the plugin is built."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxfs.cli import main
from muxfs.slurm import own, plugin
from muxfs.slurm.plan import Command, Plan, SpecError

HEADER = Path("/usr/include/slurm/spank.h")
CC = shutil.which("cc") or shutil.which("gcc")
needs_a_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler")
needs_slurm = pytest.mark.skipif(not HEADER.exists(), reason=f"there is no {HEADER} (libslurm-dev)")

_PROGRAM = r"""
#include MUXFS_SOURCE
static void show(const struct item *item, void *context)
{
	(void)context;
	printf("%c %.*s ", item->letter ? item->letter : '-', (int)item->port_len, item->port);
	printf("%.*s ", item->host ? (int)item->host_len : 9, item->host ? item->host : "localhost");
	printf("%.*s\n", (int)item->to_len, item->to);
}
int main(void)
{
	char *list = NULL; size_t size = 0; ssize_t length;
	while ((length = getdelim(&list, &size, 0, stdin)) > 0) {
		/* a copy of its exact size, so that a byte too much is seen */
		char *copy = malloc((size_t)length + 1);
		memcpy(copy, list, (size_t)length); copy[length] = 0;
		if (copy[length - 1] == 0) copy = realloc(copy, (size_t)length);
		const char *wrong = parse_list(copy, show, NULL);
		printf("= %s\n", wrong ? wrong : "ok");
		free(copy);
	}
	free(list);
	return 0;
}
"""

_STARTER = r"""
#include MUXFS_SOURCE
#include <sys/syscall.h>
static int forks, failing;
pid_t fork(void)
{
	if (++forks == failing) {
		errno = EAGAIN;
		return -1;
	}
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
int main(int count, char **arguments)
{
	struct words words = {0};
	char supervisor[] = SUPERVISOR "=17";
	if (count != 4)
		return 2;
	failing = atoi(arguments[1]);
	add(&words, arguments[2]);
	start(&words, environ, arguments[3][0] == 's', supervisor);
	return 0;
}
"""

FROM_SLURM = [
    *("slurm_error", "slurm_info", "spank_context", "spank_get_item", "spank_getenv"),
    *("spank_job_control_setenv", "spank_option_register", "spank_setenv", "spank_unsetenv"),
]

LISTS = [
    *("8001:8000", "L8001:db:8000,R1900:license_server:1900", "-L1900:a:1900", "0:1"),
    *("8001:[::1]:80", "R0:[fe80::1]:65535"),
    *("", ",", ":", "::", ":::", "L", "-", "-L", "8001", "8001:", "8001:x", "8001::80", "80:80"),
    *("8001:8000,", ",8001:8000", " 8001:8000 , 1900:1900 ", "8001:a b:80", "8001:$(id):80"),
    *("8001:[]:80", "8001:[:80", "8001:]:80", "8001:[x:80", "8001:a]:80", "99999:80", "8001:99999"),
    *("000008001:80", "8001:0", "8001:00080", "8001:h\n:80", "8001:\u00e9:80", "%s%n:80"),
    "8001:" + "a" * 253 + ":80",
    "8001:" + "a" * 254 + ":80",
    ",".join(["8001:" + "a" * 200 + ":80"] * 2000),
]


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the parser alone, with the sanitizers where there are some."""
    place = tmp_path_factory.mktemp("parser")
    source, program = place / "parser.c", place / "parser"
    source.write_text(_PROGRAM)
    words = [
        *(str(CC), "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-DMUXFS_ONLY_THE_LIST"),
        *(f'-DMUXFS_SOURCE="{plugin.SOURCE}"', "-o", str(program), str(source)),
    ]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*words, *sanitizers], capture_output=True, check=False).returncode:
        subprocess.run(words, check=True)
    return [str(program)]


def ask(parser: list[str], lists: list[str]) -> list[str]:
    text = "".join(f"{text}\0" for text in lists).encode(errors="surrogateescape")
    done = subprocess.run(parser, input=text, capture_output=True, check=True)
    assert not done.stderr
    return done.stdout.decode(errors="surrogateescape").splitlines()


def in_python(text: str) -> bool:
    try:
        Plan.parse(text, Command.SRUN)
    except SpecError:
        return False
    return True


def verdicts(parser: list[str], lists: list[str]) -> list[bool]:
    return [line == "= ok" for line in ask(parser, lists) if line.startswith("= ")]


@needs_a_compiler
def test_lists_in_c_are_those_of_python(parser: list[str]) -> None:
    expected = {text: in_python(text) for text in LISTS}
    assert dict(zip(LISTS, verdicts(parser, LISTS), strict=True)) == expected


@needs_a_compiler
def test_what_the_list_says(parser: list[str]) -> None:
    found = ask(parser, ["-L8001:db:8000, R1900:[::1]:80,0:9"])
    assert found == ["L 8001 db 8000", "R 1900 [::1] 80", "- 0 localhost 9", "= ok"]


@needs_a_compiler
def test_hostile_lists(parser: list[str]) -> None:
    """No list reads or writes where it must not; what C takes Python takes, but for addresses."""
    chance = random.Random(5)
    pieces = [*"LR-:,[]. \t%$0189a_", "8001", ":8000", "localhost", "65536", "\x7f", "\u00df"]
    lists = ["".join(chance.choices(pieces, k=chance.randrange(14))) for _ in range(20000)]
    for text, accepted in zip(lists, verdicts(parser, lists), strict=True):
        assert accepted is in_python(text) or "[" in text, text


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build what starts helpers, without a Slurm around it."""
    place = tmp_path_factory.mktemp("starter")
    source, program = place / "starter.c", place / "starter"
    source.write_text(_STARTER)
    words = [*plugin.FLAGS[:-2], f'-DMUXFS_SOURCE="{plugin.SOURCE}"', "-o", program, source]
    # Slurm's own functions are in its programs, and not called here
    absent = [f"-Wl,--defsym={name}=main" for name in FROM_SLURM]
    subprocess.run([str(CC), *map(str, words), *absent], check=True)
    return str(program)


def begin(starter: str, *words: str | Path, **environ: str) -> str:
    """Start a helper; return what it and its starter have told when both have ended."""
    done = subprocess.run(
        [starter, *map(str, words)],
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
        text=True,
        check=True,
    )
    return done.stderr


@needs_a_compiler
@needs_slurm
@pytest.mark.parametrize("errors", ["silent", "told"])
def test_a_helper_that_cannot_be_started_is_told_by_itself(
    starter: str, tmp_path: Path, errors: str
) -> None:
    """Nobody waits for the file: it may be on a file server that does not answer."""
    file = tmp_path / "file"
    file.touch()
    for path, why in ((tmp_path / "no", "No such file or directory"), (file, "Permission denied")):
        said = begin(starter, "0", path, errors)
        assert said == f"muxfs: no tunnel: {path}: {why}; the job is not affected\n"


@needs_a_compiler
@needs_slurm
def test_a_helper_for_which_there_is_no_process(starter: str) -> None:
    said = begin(starter, "2", "/bin/true", "told")
    why = "Resource temporarily unavailable"
    assert said == f"muxfs: no tunnel: /bin/true: {why}; the job is not affected\n"


@needs_a_compiler
@needs_slurm
def test_what_modules_set_for_python_is_not_for_a_helper(starter: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nenv >&2\n")
    program.chmod(0o755)
    told = begin(starter, "0", program, "told", PYTHONPATH="/no", PYTHONHOME="/no", MY_PYTHON="x")
    names = {line.partition("=")[0] for line in told.splitlines()}
    assert not [name for name in names if name.startswith("PYTHON")]
    assert "MY_PYTHON" in names
    assert f"{own.SUPERVISOR}=17" in told.splitlines()


@needs_a_compiler
@needs_slurm
def test_building(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "muxfs.so"
    made.write_text("an old one")
    assert main(["slurm", "build-plugin", "-o", str(made)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{made}: for Slurm ")
    assert f"  optional {made}\n" in out
    assert made.read_bytes().startswith(b"\x7fELF")
    assert made.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [made]


def test_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "build-plugin", "-o", str(tmp_path / "x.so")]) == 69
    words = "there is no C compiler (cc, gcc, clang); install one: apt install gcc"
    assert words in capsys.readouterr().err


@needs_a_compiler
def test_without_the_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cc = f"{CC} -nostdinc"
    assert main(["slurm", "build-plugin", "-o", str(tmp_path / "x.so"), "--cc", cc]) == 69
    words = "finds no slurm/spank.h; it comes with Slurm: apt install libslurm-dev, dnf install"
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["build-plugin"], 2, "say where the plugin is to be"),
        (["follow", "srun"], 2, "muxfs slurm follow needs COMMAND and --tunnel=SPEC"),
        (["serve", "srun", "--tunnel=1:2"], 2, "there is no SLURM_JOB_ID"),
        (["hinder"], 2, "invalid choice"),
    ],
)
def test_wrong_usage(words: list[str], code: int, said: str) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        [sys.executable, "-m", "muxfs", "slurm", *words],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
