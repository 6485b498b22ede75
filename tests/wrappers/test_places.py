"""The tunnel directories of jobs, and how jobs tell that they run."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from muxfs.slurm import places


@pytest.mark.parametrize(
    ("given", "directory"),
    [
        (None, "/home/ann/.muxfs/slurm-7"),
        ("/scratch/%u/t-%j/x", "/scratch/USER/t-7/x"),
        ("%h/x", "/home/ann/x/slurm-7"),
        ("/100%%/%j", "/100%/7"),
    ],
)
def test_templates(given: str | None, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("MUXFS_HOME", raising=False)
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert places.directory(places.template(given), 7) == directory.replace("USER", user)
    assert places.directory(places.template(given), 7, 2) == directory.replace(
        "USER", user
    ).replace("7", "7.2")


def test_the_home_of_tunnels_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXFS_HOME", "/a%j")
    assert places.directory(places.template(None), 7) == "/a%j/slurm-7"


@pytest.mark.parametrize("given", ["tunnels", "/x/%n", "/x%", "~/x"])
def test_bad_templates(given: str) -> None:
    with pytest.raises(places.BadTemplate):
        places.template(given)


def test_jobs_announce_themselves(tmp_path: Path) -> None:
    template = f"{tmp_path}/a/t-%j"
    token, other = places.new_token(), places.new_token()
    assert places.announced(template, token) == []
    for job in (7, 8):
        places.announce(template, token, job)
    places.announce(template, other, 9)
    assert sorted(places.announced(template, token)) == [7, 8]
    assert places.announced(template, token) == []
    assert places.announced(template, other) == [9]
    assert list((tmp_path / "a").iterdir()) == []


def test_what_a_killed_helper_left_goes_after_a_day(tmp_path: Path) -> None:
    template, dead, waiting = f"{tmp_path}/t-%j", places.new_token(), places.new_token()
    for token, age in ((dead, 2 * places.FORGOTTEN), (waiting, places.FORGOTTEN / 2)):
        places.announce(template, token, 7)
        (path,) = tmp_path.glob(f".from-{token}.*")
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    places.announce(template, places.new_token(), 8)
    assert places.announced(template, dead) == []
    assert places.announced(template, waiting) == [7]
