"""The uid of a local client, by both ways of asking the kernel."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from muxfs.forwards import owner
from muxfs.forwards.owner import Flow, ask_sock_diag, find_owners, of_flow, of_tcp, search_proc
from tests.ports import unused_port

NOBODY = 65534
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture(params=list(HOSTS), ids=["IPv4", "IPv6"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = request.param
    try:
        sock = socket.create_server((HOSTS[family], 0), family=family)
    except OSError:
        pytest.skip("this host has no loopback address of this family")
    with sock:
        yield sock


def flow_of(client: socket.socket, protocol: int, server: socket.socket) -> Flow:
    ends = client.getsockname()[:2], server.getsockname()[:2]
    return Flow(client.family, protocol, *ends)


@pytest.fixture(params=[ask_sock_diag, search_proc])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    works = request.param is ask_sock_diag
    monkeypatch.setattr(owner, "_sock_diag_works", lambda *_: works)
    return request.param


@pytest.mark.usefixtures("ask")
async def test_an_own_connection(server: socket.socket) -> None:
    with socket.create_connection(server.getsockname()[:2]):
        accepted, _ = server.accept()
        with accepted:
            assert await of_tcp(accepted) == os.geteuid()


@needs_root
@pytest.mark.usefixtures("ask")
async def test_another_users_connection(server: socket.socket) -> None:
    os.seteuid(NOBODY)
    try:
        client = socket.socket(server.family)
    finally:
        os.seteuid(0)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    with client, accepted:
        assert await of_tcp(accepted) == NOBODY


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.usefixtures("ask")
async def test_a_closed_client_is_never_taken_for_root(
    server: socket.socket, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as long as its bytes are not acknowledged the kernel has the socket
    monkeypatch.setattr(owner, "_closed_sockets_keep_uids", lambda: keeps)
    client = socket.create_connection(server.getsockname()[:2])
    accepted, _ = server.accept()
    client.send(b"x")
    client.close()
    with accepted:
        uid = await of_tcp(accepted)
    assert uid in {os.geteuid(), None}
    if os.geteuid() == 0 and not keeps:
        assert uid is None


@pytest.mark.usefixtures("ask")
async def test_a_reset_connection_is_nobodys_though_its_address_is_in_use_again(
    server: socket.socket,
) -> None:
    # a port that the kernel gives to nobody else meanwhile
    address = HOSTS[server.family], unused_port()
    client = socket.create_connection(server.getsockname()[:2], source_address=address)
    accepted, _ = server.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    hung_up = select.poll()
    hung_up.register(accepted, 0)
    assert hung_up.poll(60_000)  # the kernel may take the reset up later
    with accepted, socket.socket(server.family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
        other.connect(server.getsockname())
        assert await of_flow(flow_of(other, socket.IPPROTO_TCP, server)) == os.geteuid()
        assert await of_tcp(accepted) is None


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.usefixtures("ask")
async def test_a_sender_of_datagrams(server: socket.socket, connected: bool) -> None:
    host = HOSTS[server.family]
    with (
        socket.socket(server.family, socket.SOCK_DGRAM) as receiver,
        socket.socket(server.family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((host, 0))
        if connected:
            sender.connect(receiver.getsockname())
        else:
            sender.bind((host, 0))
        assert await of_flow(flow_of(sender, socket.IPPROTO_UDP, receiver)) == os.geteuid()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.usefixtures("ask")
async def test_a_sender_of_datagrams_that_is_bound_to_no_address(family: int) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        host, port = receiver.getsockname()
        sender.sendto(b"x", (f"::ffff:{host}" if family == socket.AF_INET6 else host, port))
        _, client = receiver.recvfrom(10)
        flow = Flow(socket.AF_INET, socket.IPPROTO_UDP, client, (host, port))
        assert await of_flow(flow) == os.geteuid()


@pytest.mark.usefixtures("ask")
async def test_a_client_with_a_socket_for_both_families() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET6) as client,
    ):
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            assert await of_tcp(accepted) == os.geteuid()


@pytest.mark.usefixtures("ask")
async def test_a_flow_that_does_not_exist(server: socket.socket) -> None:
    host, port = server.getsockname()[:2]
    flow = Flow(server.family, socket.IPPROTO_TCP, (host, 1), (host, port))
    assert await of_flow(flow) is None


@pytest.mark.usefixtures("no_threads")
async def test_nobody_can_tell_whose_it_is_where_no_thread_can_be_started(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_sock_diag_works", lambda _family, _protocol: False)
    with socket.create_connection(server.getsockname()[:2]) as client:
        assert await of_flow(flow_of(client, socket.IPPROTO_TCP, server)) is None


@pytest.mark.usefixtures("ask")
async def test_a_listener_on_the_clients_port_is_not_the_client(server: socket.socket) -> None:
    # the kernel's look-up finds it where there is no connection
    host, port = server.getsockname()[:2]
    flow = Flow(server.family, socket.IPPROTO_TCP, (host, port), (host, 1))
    assert await of_flow(flow) is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the sample is of a little-endian host")
def test_the_kernels_table() -> None:
    rest = "00000000:00000000 00:00000000 00000000"
    table = [
        f"   0: 0100007F:1F90 0100007F:C350 01 {rest}  1000  0 77 1 0",
        f"   1: 0100007F:C350 0100007F:1F90 01 {rest}  1001  0 78 1 0",
        f"   2: 0100007F:C351 0100007F:1F90 06 {rest}     0  0 0 1 0",
        f"   3: 0100007F:C353 0100007F:1F90 02 {rest}  1003  0 79 1 0",
        "short",
    ]
    server = ("127.0.0.1", 8080)
    none: set[int | None] = {None}
    expected = {50000: {1001}, 50001: none, 50002: set(), 50003: none}
    for port, uids in expected.items():
        flow = Flow(socket.AF_INET, socket.IPPROTO_TCP, ("127.0.0.1", port), server)
        assert find_owners(table, flow) == uids
