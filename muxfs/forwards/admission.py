"""Which local clients a listener lets in: by default those of this process's own user."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
from typing import Final

import attrs

from muxfs import credentials
from muxfs.forwards import owner

REMEDY = "--any-user lets everybody in who can connect"
UNKNOWN = "nobody can tell which user connected: it has closed at once, or is on another host"
AMBIGUOUS = "other users of this host are uid {}, too, in this user namespace"


class ExposedAddressError(PermissionError):
    """A listener's address can be reached by other hosts, whose users cannot be told apart."""


@attrs.frozen
class Admission:
    """Who may use the listeners of this end."""

    any_user: bool = False

    def check_address(self, host: str) -> None:
        """Check a numeric address before it is bound. Raises ExposedAddressError."""
        if not self.any_user and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise ExposedAddressError(f"other hosts can connect to {host}; {REMEDY}")

    async def refusal(self, connection: socket.socket) -> str | None:
        """Return None for a client that is let in; else why it is not."""
        if self.any_user:
            return None
        if connection.family == socket.AF_UNIX:
            return self.judge(credentials.of_peer(connection)[1])
        return self.judge(await owner.of_tcp(connection))

    async def refusal_of_datagrams(
        self, sock: socket.socket, client: tuple[str, int]
    ) -> str | None:
        """Return None for a sender of datagrams to this socket that is let in; else why not."""
        if self.any_user:
            return None
        host, port, *_ = sock.getsockname()
        flow = owner.Flow(sock.family, socket.IPPROTO_UDP, client[:2], (host, port))
        return self.judge(await owner.of_flow(flow))

    def judge(self, uid: int | None) -> str | None:
        """Judge a client by its uid."""
        if self.any_user or credentials.is_own(uid):
            return None
        if uid is None:
            return f"{UNKNOWN}; {REMEDY}"
        if uid == os.geteuid():
            return f"{AMBIGUOUS.format(uid)}; {REMEDY}"
        return f"{_name(uid)} of this host is not its user; {REMEDY}"


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


OWN_USER: Final = Admission()
"""Only this process's user is let in."""
