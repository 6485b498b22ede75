"""Key files: what is written, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.errors import UnusableKey
from muxfs.sealing.files import MAX_LENGTH, create_key, load_key
from muxfs.sealing.key import Key, session_name

KEY = Key(bytes(range(32)), "login1 2026-01-01")
LINE = "muxfs-key-1 a922a045db853655 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 login1 2026-01-01"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)


def refusal(path: Path) -> UnusableKey:
    with pytest.raises(UnusableKey) as caught:
        load_key(path)
    return caught.value


def test_the_line_of_a_key() -> None:
    assert KEY.line() == LINE
    assert Key.parse(LINE) == KEY


def test_a_new_key_is_private_and_read_again(path: Path) -> None:
    key = create_key(path, "for   the\tjob")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == key
    assert key.comment == "for the job"
    assert len(key.secret) == 32
    assert create_key(path.with_name("other")).secret != key.secret


def test_the_umask_does_not_matter(path: Path) -> None:
    before = os.umask(0)
    try:
        create_key(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_overwritten(path: Path, tmp_path: Path) -> None:
    create_key(path)
    text = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in (path, tmp_path / "link"):
        with pytest.raises(UnusableKey, match="exists, and is left as it is"):
            create_key(name)
    assert path.read_bytes() == text
    assert not (tmp_path / "target").exists()


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnusableKey, match="No such file or directory") as caught:
        create_key(tmp_path / "none" / "key")
    assert f"mkdir -p {tmp_path / 'none'}" in str(caught.value)
    assert caught.value.exit_code == os.EX_CANTCREAT


def test_a_disk_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UnusableKey, match="No space left on device"):
        create_key(path)
    assert not path.exists()


def test_comments_and_blank_lines_are_skipped(path: Path) -> None:
    write(path, f"# of the job\n\n{LINE}\n")
    assert load_key(path) == KEY
    write(path, " ".join(LINE.split()[:3]))
    assert load_key(path) == Key(KEY.secret)


def test_a_missing_file(path: Path) -> None:
    error = refusal(path)
    assert "No such file" in str(error)
    assert f"muxfs keygen {path}" in str(error)
    assert error.exit_code == os.EX_NOINPUT


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
def test_a_file_that_others_may_touch(path: Path, mode: int) -> None:
    write(path, LINE, mode)
    error = refusal(path)
    assert f"chmod 600 {path}" in str(error)
    assert error.exit_code == os.EX_NOPERM
    path.chmod(0o600)
    assert load_key(path) == KEY


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user(path: Path) -> None:
    write(path, LINE)
    os.chown(path, 65534, -1)
    assert "belongs to another user (uid 65534)" in str(refusal(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is not a file" in str(refusal(tmp_path / "fifo"))
    assert "is not a file" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not have one line with a key"),
        ("# nothing\n", "does not have one line with a key"),
        (f"{LINE}\n{LINE}\n", "does not have one line with a key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "does not begin with muxfs-key-1"),
        (LINE.replace("key-1", "key-2"), "does not begin with muxfs-key-1"),
        ("muxfs-key-1", "the secret is missing"),
        ("muxfs-key-1 a922a045db853655", "the secret is missing"),
        (LINE.replace("AAECAw", "AAEC"), "the secret is not whole"),
        (LINE.replace("AAECAw", "AAEC!w"), "the secret is not whole"),
        (LINE.replace("AAECAw", "AAECBw"), "not that of the secret"),
        (LINE.replace(" a922", " 0000"), "not that of the secret"),
        (b"\xff\xfe", "it is not text"),
        (b"x" * (MAX_LENGTH + 1), "it is too long"),
    ],
)
def test_what_is_no_key(path: Path, text: str | bytes, words: str) -> None:
    write(path, text)
    error = refusal(path)
    assert words in str(error)
    assert error.exit_code == os.EX_DATAERR
    assert "AAEC" not in str(error)


@given(st.text())
def test_any_line(text: str) -> None:
    with contextlib.suppress(ValueError):
        Key.parse(f"muxfs-key-1 {text}")


@given(at=st.integers(0, 42), character=st.sampled_from("AZaz09-_"))
def test_a_mistyped_secret_is_noticed(at: int, character: str) -> None:
    version, key_id, secret, *rest = LINE.split()
    wrong = secret[:at] + character + secret[at + 1 :]
    if wrong == secret:
        return
    with contextlib.suppress(ValueError):
        assert Key.parse(" ".join((version, key_id, wrong, *rest))).secret == KEY.secret


def test_a_key_shows_itself_to_nobody() -> None:
    assert "AAEC" not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


def test_names_of_sessions(tmp_path: Path) -> None:
    place = tmp_path / "job42" / "sessions" / "0"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "job42")
    assert session_name(str(place)) == "job42/0"
    assert session_name(str(tmp_path / "link" / "sessions" / "0")) == "job42/0"
    assert session_name("/") == "/"


def test_without_cryptography_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from muxfs.errors import UnusableKey\n"
        "from muxfs.sealing.key import Key\n"
        "try: Key(bytes(32)).key_id\n"
        "except UnusableKey as error: print(error, error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install cryptography" in done.stdout
    assert str(os.EX_UNAVAILABLE) in done.stdout
