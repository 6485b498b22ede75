"""sshfs: a server's ordinary directory, mounted by both clients, or by one beside the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import packages
from .fuse import DATA, HOME, FuseLab
from .lab import Client
from .remote import USER

PORT: Final = 2222
ACCOUNT: Final = "muxfs"
LOCAL: Final = "sshfs-local"
SHARE: Final = DATA / "share"
SMALL: Final = "small"


class SshfsLab(FuseLab):
    """Both clients mount it; in the lab `sshfs-local` b is the server's own host."""

    programs = (*FuseLab.programs, packages.SSHFS)
    daemons = ("sshd", "sshd-session")
    # SFTP version 3 has no word for it
    full = (os.EX_IOERR, "Input/output error")

    async def _start_server(self) -> None:
        run = self.server.run
        await run("mkdir", str(SHARE))
        await run("chown", f"{USER}:{USER}", str(SHARE))
        small = SHARE / SMALL
        await run("mkdir", str(small))
        await run("mount", "-t", "tmpfs", "-o", "mode=1777,size=24M", "tmpfs", str(small))
        for key in ("host", "user"):
            await run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(DATA / key))
        await self._make_account()
        options = {
            "Port": PORT,
            "ListenAddress": "127.0.0.1",
            "HostKey": DATA / "host",
            "AuthorizedKeysFile": DATA / "user.pub",
            "StrictModes": "no",
            "PidFile": "none",
            "UsePAM": "no",
            "Subsystem": "sftp internal-sftp",
        }
        arguments = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        await self.daemon(
            self.server, "sshd", "/usr/sbin/sshd", "-D", "-e", "-f/dev/null", *arguments
        )
        probe = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"
        await self.server.until_succeeds("bash", "-c", probe)

    async def _make_account(self) -> None:
        """Have the lab see an account with the number that the clients' commands run as."""
        script = f"""
            mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/sshd
            for file in passwd shadow; do cp -p /etc/$file {DATA}/$file; done
            echo "{ACCOUNT}:x:{USER}:{USER}::/:/bin/sh" >> {DATA}/passwd
            echo "{ACCOUNT}:*:1::::::" >> {DATA}/shadow
            for file in passwd shadow; do mount --bind {DATA}/$file /etc/$file; done
        """
        await self.server.run("bash", "-ec", script)

    async def _mount(self, client: Client) -> None:
        if self.spec.filesystem == LOCAL and client is self.clients[1]:
            await client.machine.run("mount", "--rbind", str(SHARE), str(HOME))
        else:
            await super()._mount(client)

    def place(self, kind: str) -> Path:
        return HOME / SMALL if kind == SMALL else super().place(kind)

    def on_server(self, path: Path) -> Path:
        return SHARE / path.relative_to(HOME)

    def _mount_command(self, client: Client) -> Sequence[str]:
        options = (
            "allow_other",
            f"IdentityFile={DATA / 'user'}",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            *self.spec.options,
        )
        place = f"{ACCOUNT}@127.0.0.1:{SHARE}"
        return ("sshfs", "-f", "-p", str(PORT), "-o", ",".join(options), place, str(HOME))
