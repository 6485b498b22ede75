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

CELL = {
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
GUESTS = {
    **CELL,
    "linux.uml": "user-mode-linux",
    "gcc": "gcc libc6-dev",
    "pkill": "procps",
    "modprobe": "kmod",
}
FUSE = {
    "pkill": "procps",
    "fusermount3": "fuse3",
    "mountpoint": "util-linux",
}
SSHFS = {
    "sshfs": "sshfs",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
}
GLUSTER = {
    "glusterd": "glusterfs-server",
    "glusterfs": "glusterfs-client",
    "gluster": "glusterfs-cli",
}
MOOSE = {
    "mfsmaster": "moosefs-master",
    "mfschunkserver": "moosefs-chunkserver",
    "mfsmount": "moosefs-client",
    "mfscli": "moosefs-cli",
}
CEPH = {
    "ceph-mon": "ceph-mon",
    "ceph-mgr": "ceph-mgr",
    "ceph-osd": "ceph-osd",
    "ceph-mds": "ceph-mds",
    "ceph-fuse": "ceph-fuse",
    "ceph": "ceph-common",
    "monmaptool": "ceph-base",
}
SMB = {
    "smbd": "samba",
    "mount.cifs": "cifs-utils",
}
SLURM = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client slurm-wlm-basic-plugins",
    "munged": "munge",
    "nft": "nftables",
    "pgrep": "procps",
    "gcc": "gcc libc6-dev libslurm-dev",
    "curl": "curl",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
NFS = {
    "mount.nfs": "nfs-common",
    "rpcbind": "rpcbind",
    "exportfs": "nfs-kernel-server",
    "mkfs.ext4": "e2fsprogs",
}


DEVICES = {"linux.uml": "/dev/net/tun", "fusermount3": "/dev/fuse"}
"""What programs need of the kernel."""


def packages(tables: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the packages of all the programs."""
    return sorted({word for table in tables for names in table.values() for word in names.split()})


def check(tables: Sequence[Mapping[str, str]]) -> None:
    """Raise LabError where something is missing, with what to do about it."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise LabError("the lab needs Linux on x86-64, for the package user-mode-linux")
    check_cell(tables)


def check_cell(tables: Sequence[Mapping[str, str]]) -> None:
    """Raise LabError where the machine has no namespaces of a lab's own, or lacks a program."""
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
    for program, device in DEVICES.items():
        if any(program in table for table in tables) and not Path(device).exists():
            raise LabError(f"the lab needs {device}, which this machine or container does not have")
    command = ["unshare", *NAMESPACES, "true"]
    unshare = subprocess.run(command, capture_output=True, text=True, check=False)
    if unshare.returncode:
        raise LabError(f"the lab needs namespaces of its own: {unshare.stderr.strip()}")
