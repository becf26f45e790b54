"""Which sockets are the core's: all of them, only them, and none that only has an old number."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from mppool.database import sockets
from mppool.database.opening import open_link
from mppool.settings import Database


def servers_port(uri: str) -> int:
    return int(uri.rpartition("@")[2].partition("/")[0].rpartition(":")[2])


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
@pytest.mark.parametrize("by", ["epoll", "port"])
def test_the_cores_sockets(provider: str, by: str, request: pytest.FixtureRequest) -> None:
    if by == "epoll" and sys.platform != "linux":
        pytest.skip("no epoll here")
    uri = request.getfixturevalue("postgres_uri" if provider == "postgresql" else "mysql_uri")
    links = [open_link(Database.parse(uri)) for _ in range(2)]
    watch = links[0].core.watch
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
