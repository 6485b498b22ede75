"""What a lab needs of the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .remote import LabError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--mount-proc")

GUESTS = {
    "linux.uml": "user-mode-linux",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "pkill": "procps",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "modprobe": "kmod",
}
NFS = {
    "mount.nfs": "nfs-common",
    "rpcbind": "rpcbind",
    "exportfs": "nfs-kernel-server",
    "mkfs.ext4": "e2fsprogs",
}


def packages(tables: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the packages of all the programs."""
    return sorted({word for table in tables for names in table.values() for word in names.split()})


def check(tables: Sequence[Mapping[str, str]]) -> None:
    """Raise LabError where something is missing, with what to do about it."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise LabError("the lab needs Linux on x86-64, for the package user-mode-linux")
    if os.geteuid() != 0:
        raise LabError("the lab needs root, for its own network and mounts: run it as root")
    missing = {
        program: package
        for table in tables
        for program, package in table.items()
        if shutil.which(program, path=SYSTEM_PATH) is None
    }
    if missing:
        install = f"apt-get install --no-install-recommends {' '.join(packages([missing]))}"
        raise LabError(f"the lab needs {', '.join(missing)}: {install}")
    if not Path("/dev/net/tun").exists():
        raise LabError("the lab needs /dev/net/tun, which this machine or container does not have")
    command = ["unshare", *NAMESPACES, "true"]
    unshare = subprocess.run(command, capture_output=True, text=True, check=False)
    if unshare.returncode:
        raise LabError(f"the lab needs namespaces of its own: {unshare.stderr.strip()}")
