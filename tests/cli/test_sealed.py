"""The key on the command line: made, given, missing, another; and what is shown of sealed files."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.commands import Runner


@pytest.fixture
def key(muxfs: Runner, tmp_path: Path) -> str:
    path = tmp_path / "key"
    done = muxfs.run("keygen", "--comment", "of the test", str(path))
    assert done.wait() == 0
    return str(path)


def test_keygen_says_what_to_do_with_it(muxfs: Runner, tmp_path: Path) -> None:
    path = tmp_path / "key file"
    done = muxfs.run("keygen", str(path))
    assert done.wait() == 0
    key_id = path.read_text().split()[1]
    text = "\n".join(done.lines["stdout"])
    assert f"made {path} (key {key_id})" in text
    assert f"--key-file '{path}'" in text
    assert "scp -p" in text
    assert path.read_text().split()[2] not in text
    again = muxfs.run("keygen", str(path))
    assert again.wait() == os.EX_CANTCREAT
    assert "exists, and is left as it is" in again.stderr


def test_the_key_by_the_environment(muxfs: Runner, key: str) -> None:
    dial = muxfs.start("dial", "job", "--json", MUXFS_KEY_FILE=key)
    listen = muxfs.start("listen", "job", "0:1", "--json", "--key-file", key)
    assert dial.event("established")["host"] == listen.event("established")["host"] != ""
    shown = muxfs.run("status", "--json", "job", MUXFS_KEY_FILE=key)
    (session,) = json.loads("".join(shown.lines["stdout"]))["tunnels"][0]["sessions"]
    assert session["state"] == "established"
    assert "remark" not in session["dial"]


def test_both_sides_with_the_key(muxfs: Runner, key: str) -> None:
    listen = muxfs.start("listen", "job", "0:1", "--json", "--key-file", key)
    dial = muxfs.start("dial", "job", "--json", "--key-file", key)
    peer = listen.event("established")
    assert dial.event("established")["host"] == peer["host"] != ""
    with socket.create_connection(("127.0.0.1", listen.event("listening")["port"])):
        listen.event("refused")  # so that each side has written a batch
    plain = json.loads("".join(muxfs.run("status", "--json", "job").lines["stdout"]))
    (session,) = plain["tunnels"][0]["sessions"]
    assert session["state"] == "established"
    key_id = Path(key).read_text().split()[1]
    assert session["dial"]["host"] == ""
    assert f"sealed with key {key_id}" in session["dial"]["remark"]
    assert not session["dial"]["report"]
    shown = muxfs.run("status", "--json", "job", "--key-file", key)
    (session,) = json.loads("".join(shown.lines["stdout"]))["tunnels"][0]["sessions"]
    assert session["dial"]["host"] == peer["host"]
    assert session["dial"]["report"]
    assert "remark" not in session["dial"]
    mailbox = muxfs.home / "job" / "sessions" / "0" / "dial.mbx"
    text = "\n".join(muxfs.run("explain", str(mailbox), "--key-file", key).lines["stdout"])
    assert "sealed with the key given" in text
    assert f"host         {peer['host']}" in text
    assert "sealed: only the two sides could read it" in text
    text = "\n".join(muxfs.run("explain", str(mailbox)).lines["stdout"])
    assert f"sealed with key {key_id}; --key-file shows more" in text
    assert peer["host"] not in text.replace(str(mailbox), "")
    assert listen.end() == dial.end() == 143


def test_another_key_is_told_on_both_sides(muxfs: Runner, key: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    muxfs.run("keygen", other)
    listen = muxfs.start("listen", "job", "0:1", "--key-file", key)
    dial = muxfs.start("dial", "job", "--key-file", other)
    ids = [Path(path).read_text().split()[1] for path in (key, other)]
    listen.says(f"the other side has another key ({ids[1]}, this side has {ids[0]})")
    dial.says(f"the other side has another key ({ids[0]}, this side has {ids[1]})")
    assert listen.process.poll() is dial.process.poll() is None


@pytest.mark.parametrize("keyed", ["listen", "dial"])
def test_a_missing_key_is_told_on_both_sides(muxfs: Runner, key: str, keyed: str) -> None:
    commands = {"listen": ["listen", "job", "0:1"], "dial": ["dial", "job"]}
    with_key = muxfs.start(*commands.pop(keyed), "--key-file", key)
    with_key.says("waiting for the other side")
    (command,) = commands.values()
    without = muxfs.start(*command)
    assert without.wait() == os.EX_PROTOCOL
    assert "the other side requires a key" in without.stderr
    assert "--key-file" in without.stderr
    with_key.says("the other side has no key")
    assert with_key.process.poll() is None


@pytest.mark.parametrize("command", [["dial", "job"], ["status"], ["explain", "/dev/null"]])
def test_a_key_file_that_cannot_be_used(muxfs: Runner, key: str, command: list[str]) -> None:
    os.chmod(key, 0o644)
    done = muxfs.run(*command, "--key-file", key)
    assert done.wait() == os.EX_NOPERM
    assert f"chmod 600 {key}" in done.stderr
    missing = muxfs.run(*command, "--key-file", f"{key}-of-another-name")
    assert missing.wait() == os.EX_NOINPUT
    assert "muxfs keygen" in missing.stderr


def test_a_variable_that_is_empty_does_not_turn_the_key_off(muxfs: Runner, key: str) -> None:
    done = muxfs.run("dial", "job", MUXFS_KEY_FILE="")
    assert done.wait() == 2
    assert "MUXFS_KEY_FILE is given, but names no file" in done.stderr
    assert muxfs.run("dial", "job", "--key-file", "").wait() == 2


def test_the_lines_for_the_other_host_name_what_both_need(muxfs: Runner, key: str) -> None:
    both = ("--sessions", "2", "--insecure-dir", "--key-file")
    listen = muxfs.start("listen", "job", "0:1", *both, key)
    listen.says("waiting for the other side")
    (line,) = [line for line in listen.lines["stderr"] if "muxfs dial" in line]
    assert line.endswith(f" 1 {' '.join(both)} FILE")
