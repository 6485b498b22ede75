"""Who is this process's own user, also where the kernel shows others by the same number."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from muxfs import credentials

ADMIT_ONE = """
import socket, trio
from muxfs.forwards.admission import Admission

with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    client, _ = server.accept()
    print(trio.run(Admission().refusal, client))
    client.close()
"""


def test_the_own_user() -> None:
    assert credentials.is_own(os.geteuid())
    assert not credentials.is_own(os.geteuid() + 1)
    assert not credentials.is_own(None)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--user"], "other users of this host are uid "),
        (["--map-root-user"], "None"),
    ],
)
def test_a_user_namespace(options: list[str], answer: str) -> None:
    """Where all users that it does not know have the number of its only one, nobody comes in."""
    unshare = ["unshare", *options]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no user namespace")
    command = [*unshare, sys.executable, "-c", ADMIT_ONE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert listener.stdout.readline().startswith(answer)
            assert client.recv(1) == b""
