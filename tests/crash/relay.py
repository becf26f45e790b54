"""A relay in front of a server: it hands on what both say, and that either has ended or reset its side.

A server behind one does not see where its connections come from, and nobody else connects to its port.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.waiting import forked


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # the kernel resets the connection of a process that is killed with an answer unread
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def _both_ways(client: socket.socket, server: socket.socket) -> None:
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client))
        back.start()
        _pump(client, server)
        back.join()


def _serve(listener: socket.socket, host: str, port: int) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, port))
        threading.Thread(target=_both_ways, args=(client, server), daemon=True).start()


@contextmanager
def relay(uri: str) -> Iterator[str]:
    """The uri by way of a relay, which is a process of its own: none that is forked later has its sockets."""
    parts = urlsplit(uri)
    assert parts.port is not None
    host, port = parts.hostname or "127.0.0.1", parts.port
    listener = socket.create_server(("127.0.0.1", 0))
    own = parts.netloc.replace(f":{port}", f":{listener.getsockname()[1]}")
    with forked(_serve, listener, host, port):
        listener.close()
        yield parts._replace(netloc=own).geturl()


@contextmanager
def own_port(uri: str) -> Iterator[str]:
    """The uri by way of a relay; of SQLite as it is. What the kernel tells of connections to a server's port may be of
    other tests' dead just as well, and then permits come late."""
    if uri.startswith("sqlite"):
        yield uri
    else:
        with relay(uri) as own:
            yield own
