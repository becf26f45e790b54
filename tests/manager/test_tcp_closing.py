"""What the kernel says of connections that were closed here and not at the server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from mppool.manager.tcp_closing import half_closed
from tests.waiting import forked, until

pytestmark = pytest.mark.skipif(half_closed(1) is None, reason="this system does not tell")


@contextmanager
def line(address: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """A connection: our end, the server's end, and the server's port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, 0), family=family(address)))
        ours = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        theirs = stack.enter_context(listener.accept()[0])
        yield ours, theirs, listener.getsockname()[1]


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_from_our_close_to_the_servers(address: str) -> None:
    if address == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    with line(address) as (ours, theirs, port):
        own = ours.getsockname()[1]
        assert half_closed(port) == []
        ours.close()
        until(lambda: half_closed(port) == [own])  # for an instant port 0: the kernel puts a lighter record there
        assert half_closed(port ^ 1) == [], "another server's"
        theirs.sendall(b"it goes on")
        theirs.close()
        until(lambda: half_closed(port) == [])


def test_a_reset_is_an_end() -> None:
    with line() as (ours, theirs, port):
        ours.shutdown(socket.SHUT_WR)
        assert half_closed(port) == [ours.getsockname()[1]]
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        until(lambda: half_closed(port) == [])


def test_a_process_that_is_killed() -> None:
    """When its end is known, so is that of its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def child() -> None:
            listener.close()
            with socket.create_connection(address):
                threading.Event().wait()

        with forked(child) as process:
            theirs, (_, port) = listener.accept()
            process.kill()  # and waits for its end
            assert half_closed(address[1]) == [port]
        theirs.close()
        until(lambda: half_closed(address[1]) == [])


def test_as_many_as_there_are() -> None:
    """More than one piece of the answer holds."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        port = listener.getsockname()[1]
        for _ in range(500):
            ours = socket.create_connection(("127.0.0.1", port))
            stack.enter_context(listener.accept()[0])
            ours.close()
        found = half_closed(port)
        assert found is not None
        assert len(found) == len({*found}) == 500


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mppool.manager.tcp_closing._BY_FAMILY", 99)  # no such request
    assert half_closed(5432) is None
    monkeypatch.delattr(socket, "AF_NETLINK")  # macOS
    assert half_closed(5432) is None
