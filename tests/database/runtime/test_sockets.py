"""Which sockets are the core's: all of them, only them, and none that only has an old number."""

from __future__ import annotations

import os
import select
import socket
import sys

import pytest

from mppool.database.connection.opening import open_link
from mppool.database.runtime import sockets
from mppool.settings import Database
from tests.waiting import until


def servers_port(uri: str) -> int:
    return int(uri.rpartition("@")[2].partition("/")[0].rpartition(":")[2])


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
@pytest.mark.parametrize("by", ["epoll", "port"])
def test_the_cores_sockets(provider: str, by: str, request: pytest.FixtureRequest) -> None:
    if by == "epoll" and sys.platform != "linux":
        pytest.skip("no epoll here")
    uri = request.getfixturevalue("postgres_uri" if provider == "postgresql" else "mysql_uri")
    links = [open_link(Database.parse(uri)) for _ in range(2)]
    watch = links[0].driver.watch
    mine = [link.socket for link in links]
    assert None not in mine
    assert len(set(mine)) == 2
    if by == "port":
        watch = sockets.Watch()  # never told of a runtime: as where there is no epoll
        watch.ports.add(servers_port(uri))
    with socket.create_connection(("127.0.0.1", servers_port(uri))) as foreign:
        found = watch.sockets()
        assert set(mine) <= found
        assert all(sockets.is_open(pair) for pair in found)
        if by == "epoll":  # the twin cannot tell ours from another driver's
            assert foreign.fileno() not in {fd for fd, _ in found}
    for link in links:
        assert link.close()


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
def test_an_idle_connection_is_not_forgotten_by_a_firewall(provider: str, request: pytest.FixtureRequest) -> None:
    link = open_link(
        Database.parse(request.getfixturevalue("postgres_uri" if provider == "postgresql" else "mysql_uri"))
    )
    found = link.live_socket()
    assert found is not None
    with socket.socket(fileno=os.dup(found[0])) as twin:
        assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in sockets.KEEP_ALIVE:
            if hasattr(socket, name):
                assert twin.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    assert link.close()


def test_a_number_used_again_is_not_the_same() -> None:
    first, second = socket.socketpair()
    pair = (first.fileno(), os.fstat(first.fileno()).st_ino)
    assert sockets.is_open(pair)
    first.close()
    assert not sockets.is_open(pair)
    other, another = socket.socketpair()  # the lowest free number: the one just closed
    assert other.fileno() == pair[0]
    assert not sockets.is_open(pair)
    sockets.shut_down(pair)  # must not hit the new one
    other.sendall(b"x")
    assert another.recv(1) == b"x"
    for one in (second, other, another):
        one.close()


def test_shut_down_ends_the_conversation_for_all() -> None:
    first, second = socket.socketpair()
    sockets.shut_down((first.fileno(), os.fstat(first.fileno()).st_ino))
    assert second.recv(1) == b""
    assert first.recv(1) == b""
    first.close()
    second.close()


def descriptor(sock: socket.socket) -> sockets.Descriptor:
    return sock.fileno(), os.fstat(sock.fileno()).st_ino


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def test_an_end_is_told_once_and_what_was_said_is_not() -> None:
    endings, (mark, end) = sockets.Endings(), os.pipe()
    endings.prepare(mark)
    pairs = [connected() for _ in range(3)]
    mine = [descriptor(client) for client, _ in pairs]

    def told() -> bool:
        return bool(select.select([endings], [], [], 0)[0]) if endings.fileno() >= 0 else True

    for one in mine:
        endings.watch(one)
    pairs[0][1].sendall(b"an answer")
    until(lambda: select.select([pairs[0][0]], [], [], 0)[0])
    if endings.fileno() >= 0:
        assert not told(), "an answer is no end"
    assert sockets.Endings.among(mine) == set()
    pairs[0][1].close()  # with something said that nobody has read
    pairs[1][1].shutdown(socket.SHUT_WR)
    until(lambda: sockets.Endings.among(mine) == set(mine[:2]))
    assert told()
    endings.hear()
    assert endings.fileno() < 0 or not told()
    assert pairs[0][0].recv(100) == b"an answer", "it was looked at and not read"
    endings.forget(mine[2])
    endings.forget(mine[2])
    pairs[2][1].close()
    until(lambda: sockets.Endings.among(mine) == set(mine))
    assert endings.fileno() < 0 or not told(), "of one that was forgotten nothing is told"
    endings.close()
    os.close(mark)
    os.close(end)
    for pair in pairs:
        for each in pair:
            each.close()


def test_a_socket_that_the_driver_has_closed_has_ended() -> None:
    client, server = connected()
    mine = descriptor(client)
    client.close()
    server.close()
    assert sockets.Endings.among([mine]) == {mine}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
def test_an_epoll_of_others_in_place_of_ours_is_left_alone() -> None:
    endings, (mark, end), foreign = sockets.Endings(), os.pipe(), select.epoll()
    endings.prepare(mark)
    number = endings.fileno()
    client, server = connected()
    os.dup2(foreign.fileno(), number)
    endings.watch(descriptor(client))
    server.close()
    assert foreign.poll(0) == [], "a socket of ours is watched by it"
    endings.close()
    assert os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]", "it was closed"
    os.close(number)
    os.close(mark)
    os.close(end)
    foreign.close()
    client.close()
