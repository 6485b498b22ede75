"""`muxfs doctor` on a real network filesystem: it must find what is known of its caches."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from .ends import note
from .lab import Client, Lab

DOCTOR = (sys.executable, "-m", "muxfs", "doctor")


async def examine(client: Client, directory: str, *options: str) -> dict[str, Any]:
    """Run it to its end; return what it tells programs."""
    path = str(client.path / directory)
    done = await client.run(*DOCTOR, path, *options, "--json", check=False)
    assert done.status == 0, done
    report: dict[str, Any] = json.loads(done.output)
    return report


GONE = 120.0
"""Seconds: twice as long as attributes of a directory may be cached (acdirmax)."""


LIMIT = 30.0
"""Seconds. Measuring ends after 25 (muxfs.doctor.budget); the rest is for all around it."""


async def test_one_host(lab: Lab) -> None:
    client = lab.clients[0]
    report = await examine(client, "doctor-alone")
    assert report["verdict"] in {"ok", "warning"}
    findings = {finding["name"]: finding for finding in report["findings"]}
    facts = findings["filesystem"]["facts"]
    assert facts["known_by"] == "measured", facts
    assert findings["write"]["facts"]["dsync"]["count"] > 1
    with trio.fail_after(GONE):  # a client may list for a while what it has removed
        while "doctor-alone" in (await client.run("ls", str(client.path))).output:  # noqa: ASYNC110
            await trio.sleep(1)


async def test_both_hosts(lab: Lab) -> None:
    reports: list[dict[str, Any]] = []

    async def take_part(client: Client) -> None:
        reports.append((await examine(client, "doctor", "--peer"))["pair"])

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for client in lab.clients:
            nursery.start_soon(take_part, client)
    seconds = trio.current_time() - start
    print(json.dumps(reports[0], indent=1))
    note({"lab": str(lab.spec), "work": "doctor", "seconds": seconds})
    assert seconds < LIMIT
    assert reports[0] == reports[1]
    report = reports[0]
    assert not report["one_kernel"]
    assert report["recommendation"]["access"] == "auto"
    assert all(speed > 0 for speed in report["streams"])
    trials = {trial["access"]: trial for trial in report["trials"]}
    assert trials["direct+dsync"]["passed"]
    assert trials["direct+dsync"]["o_direct"]
    assert trials["dontneed+dsync"]["passed"]
    if lab.spec.filesystem.startswith("nfs"):
        check_nfs(report, trials, lab)
    for client in lab.clients:
        assert "doctor" not in (await client.run("ls", str(client.path))).output.split()


def check_nfs(report: dict[str, Any], trials: dict[str, Any], lab: Lab) -> None:
    """What goes wrong on every NFS is found, so that the doctor is known to see it."""
    assert trials["direct+plain"]["fault"] == "unwritten"
    # "slow" only if the machine stood still as well
    assert trials["held+dsync"]["fault"] in {"unread", "slow"}
    # one READ a poll and nothing else, but for the doctors' own heartbeats meanwhile
    requests = trials["direct+dsync"]["requests_per_poll"]
    assert 1 <= requests["READ"] <= 1.2, requests
    assert sum(requests.values()) < 1.5, requests
    assert report["locks"] == "exclusive"
    if lab.spec.filesystem == "nfs3":
        # two writes within one tick of the server's clock: the client keeps the page of the first
        assert trials["reopen+dsync"]["fault"] == "unread"
