"""All labs by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from .ceph import CephLab
from .gluster import GlusterLab
from .lab import Lab, Spec
from .moose import MooseLab
from .nfs import VERSIONS, NfsLab
from .remote import LabError
from .smb import SmbLab
from .sshfs import SshfsLab

FILESYSTEMS: Final[dict[str, Callable[[Spec, Path], Lab]]] = {
    **{f"nfs{version}": NfsLab for version in VERSIONS},
    "sshfs": SshfsLab,
    "sshfs-local": SshfsLab,
    "smb": SmbLab,
    "gluster": GlusterLab,
    "moose": MooseLab,
    "ceph": CephLab,
}

ALL: Final = (
    *(f"nfs{version}" for version in VERSIONS),
    *("nfs3+noac", "nfs4.2+noac"),
    *("nfs3+lookupcache=none", "nfs4.2+lookupcache=none"),
    *("nfs3+actimeo=60", "nfs4.2+actimeo=60"),
    *("smb", "smb+cache=none", "smb+cache=loose"),
    *("gluster", "sshfs", "sshfs-local", "moose", "ceph"),
)
"""What a long run is made of."""


def lab(name: str, directory: Path) -> Lab:
    """Return the lab of that name, which need not be up. Raises LabError for an unknown one."""
    spec = Spec.parse(name)
    if spec.filesystem not in FILESYSTEMS:
        raise LabError(f"no lab of {spec.filesystem!r}; there are {', '.join(FILESYSTEMS)}")
    return FILESYSTEMS[spec.filesystem](spec, directory)
