"""Whose connection is it? The uid of a local client, from the kernel.

Any user of a host can connect to a loopback port. The kernel knows whose socket is at
the other end, of TCP and UDP (`muxfs.credentials`: of Unix sockets): one exact look-up by
sock_diag(7), 7 us, which never blocks; where that is not to be had (a kernel without it,
seccomp), `/proc/net/tcp` and its like, which grow with the host's sockets and are
therefore read in a thread.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import re
import select
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import attrs

from muxfs.blocking import in_thread

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2

# linux/netlink.h and linux/inet_diag.h; ports and addresses are in the network's order
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_REQUEST: Final = struct.Struct("=BBBBI")  # family, protocol, extensions, pad, states
_PORTS: Final = struct.Struct("!HH")
_ANY_INTERFACE_ANY_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_OWNER: Final = struct.Struct("=II")  # uid, inode
_STATE_AT: Final = _HEADER.size + 1
_PORTS_AT: Final = _HEADER.size + 4
_OWNER_AT: Final = _PORTS_AT + 48 + 12  # behind the socket's id, a timer and two queues
_ALL_STATES: Final = 0xFFFFFFFF
_LONGEST_ANSWER: Final = 4096

_TCP_SYN_SENT: Final = 2
_TCP_TIME_WAIT: Final = 6
_TCP_CLOSE: Final = 7
_CLOSED_SOCKETS_KEEP_UIDS: Final = (6, 17)
"""The Linux since which a closed socket is still its user's ("net: remove sock_i_uid()")."""
_PROC_FILES: Final[dict[tuple[int, int], str]] = {
    (socket.AF_INET, socket.IPPROTO_TCP): "/proc/net/tcp",
    (socket.AF_INET6, socket.IPPROTO_TCP): "/proc/net/tcp6",
    (socket.AF_INET, socket.IPPROTO_UDP): "/proc/net/udp",
    (socket.AF_INET6, socket.IPPROTO_UDP): "/proc/net/udp6",
}


@attrs.frozen
class Flow:
    """A client's socket on this host, and whom it talks to."""

    family: int
    """AF_INET or AF_INET6."""
    protocol: int
    """IPPROTO_TCP or IPPROTO_UDP."""
    client: tuple[str, int]
    server: tuple[str, int]


async def of_tcp(connection: socket.socket) -> int | None:
    """Return the uid behind an accepted connection.

    None where the kernel cannot tell: the client is on another host or in another
    network namespace, or has closed its socket already (before Linux 6.17).
    """
    try:
        client, server = connection.getpeername()[:2], connection.getsockname()[:2]
        uid = await of_flow(Flow(connection.family, socket.IPPROTO_TCP, client, server))
        # Once this one is dead its addresses may name another user's next connection.
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return None
    return None if info[0] == _TCP_CLOSE else uid


async def of_flow(flow: Flow) -> int | None:
    """Return the uid of the process on this host whose socket is the client, None for nobody's."""
    if _sock_diag_works(flow.family, flow.protocol):
        try:
            return ask_sock_diag(flow)
        except OSError:
            pass  # out of descriptors or memory: then as if it did not work
    try:
        return await in_thread(search_proc, flow)
    except OSError:  # no thread to be had: then nobody can tell
        return None


def has_left(connection: socket.socket) -> bool:
    """Whether the process at the other end has closed its socket, and all it sent was read.

    A client that only says that it sends no more has not left. False where nobody can tell.
    """
    try:
        if connection.recv(1, socket.MSG_PEEK):
            return False
        if connection.family == socket.AF_UNIX:
            hung_up = select.poll()
            hung_up.register(connection, 0)
            return bool(hung_up.poll(0))
        client, server = connection.getpeername()[:2], connection.getsockname()[:2]
        flow = Flow(connection.family, socket.IPPROTO_TCP, client, server)
        found = _look_up(flow) if _sock_diag_works(flow.family, flow.protocol) else None
    except ConnectionError:
        return True
    except OSError:
        return False  # it is there, and silent
    return found is not None and not found.inode


def ask_sock_diag(flow: Flow) -> int | None:
    """Look one socket up. Raises OSError where the kernel does not answer."""
    found = _look_up(flow)
    return _judge(*found) if found else None


class _Found(NamedTuple):
    uid: int
    inode: int
    state: int


def _look_up(flow: Flow) -> _Found | None:
    ends = (flow.client, flow.server)
    if flow.protocol == socket.IPPROTO_UDP:
        ends = (flow.server, flow.client)  # udp_diag takes them as of a packet that arrives
    body = _REQUEST.pack(flow.family, flow.protocol, 0, 0, _ALL_STATES)
    body += _PORTS.pack(*(port for _, port in ends))
    body += b"".join(_packed(flow.family, host).ljust(16, b"\0") for host, _ in ends)
    body += _ANY_INTERFACE_ANY_COOKIE
    length = _HEADER.size + len(body)
    header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + body)  # the kernel has answered when this returns
        answer = netlink.recv(_LONGEST_ANSWER)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, "sock_diag")
    state = answer[_STATE_AT]
    local, remote = _PORTS.unpack_from(answer, _PORTS_AT)
    uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    # the look-up falls back on wider sockets: a listener on the client's port, for instance
    if local != flow.client[1] or remote not in _remotes(flow):
        return None
    return _Found(uid, inode, state)


def search_proc(flow: Flow) -> int | None:
    """Look for the socket in the kernel's tables; blocks for 1 ms for each 1,000 sockets.

    None also where sockets of several users could be the client.
    """
    flows = [flow]
    if flow.family == socket.AF_INET:  # sockets for both families stand in the other table
        ends = [(f"::ffff:{host}", port) for host, port in (flow.client, flow.server)]
        flows.append(Flow(socket.AF_INET6, flow.protocol, *ends))
    owners: set[int | None] = set()
    for each in flows:
        try:
            with open(_PROC_FILES[each.family, each.protocol], encoding="ascii") as table:
                next(table, None)
                owners |= find_owners(table, each)
        except OSError:
            continue  # a host without IPv6
    return owners.pop() if len(owners) == 1 else None


def find_owners(table: Iterable[str], flow: Flow) -> set[int | None]:
    """Find the client's uid in the lines of such a table (proc_net(5))."""
    clients = {_hex_address(flow.family, *flow.client)}
    servers = {_hex_address(flow.family, *flow.server)}
    if flow.protocol == socket.IPPROTO_UDP:  # it may be bound to a port only, or not connected
        clients.add(_hex_address(flow.family, _wildcard(flow.family), flow.client[1]))
        servers.add(_hex_address(flow.family, _wildcard(flow.family), 0))
    found: set[int | None] = set()
    for line in table:
        fields = line.split()
        if len(fields) > 9 and fields[1] in clients and fields[2] in servers:
            found.add(_judge(int(fields[7]), int(fields[9]), int(fields[3], 16)))
    return found


@functools.cache
def _sock_diag_works(family: int, protocol: int) -> bool:
    """Try it with a socket of our own: a kernel without it says ENOENT, as if there were none."""
    kind = socket.SOCK_STREAM if protocol == socket.IPPROTO_TCP else socket.SOCK_DGRAM
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        with socket.socket(family, kind) as server, socket.socket(family, kind) as client:
            server.bind((host, 0))
            if protocol == socket.IPPROTO_TCP:
                server.listen(1)
            client.connect(server.getsockname())
            ends = client.getsockname()[:2], server.getsockname()[:2]
            return ask_sock_diag(Flow(family, protocol, *ends)) is not None
    except OSError:
        return False


def _judge(uid: int, inode: int, state: int) -> int | None:
    """Tell root from nobody: a closed socket has no inode, and seems to be root's.

    One that only tries to connect is not the client: another user's, whose addresses are free
    again on its side, was accepted.
    """
    if state == _TCP_SYN_SENT:
        return None
    if uid or inode or (state != _TCP_TIME_WAIT and _closed_sockets_keep_uids()):
        return uid
    return None


@functools.cache
def _closed_sockets_keep_uids() -> bool:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return release is not None and (int(release[1]), int(release[2])) >= _CLOSED_SOCKETS_KEEP_UIDS


def _remotes(flow: Flow) -> tuple[int, ...]:
    """Return the ports to which the client's socket may be bound; UDP's need not be connected."""
    return (flow.server[1],) if flow.protocol == socket.IPPROTO_TCP else (flow.server[1], 0)


def _packed(family: int, host: str) -> bytes:
    # fe80::1%eth0: the scope is not part of the address
    return socket.inet_pton(family, host.partition("%")[0])


def _wildcard(family: int) -> str:
    return str(ipaddress.IPv4Address(0) if family == socket.AF_INET else ipaddress.IPv6Address(0))


def _hex_address(family: int, host: str, port: int) -> str:
    """Write an address as the kernel's tables do: 32-bit words in this host's byte order."""
    words = struct.unpack(f"={len(_packed(family, host)) // 4}I", _packed(family, host))
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
