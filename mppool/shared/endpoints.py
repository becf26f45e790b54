"""The client's end of a connection: the manager names a connection to the reaper by it, and the server knows it."""

from __future__ import annotations

import socket

__all__ = ["Endpoint", "endpoint"]

Endpoint = tuple[str, int]  # address and port of a connection's client


def endpoint(connection: socket.socket) -> Endpoint | None:
    """This host's end of a connection. None: it is not TCP, or not connected any more."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        address, port, *_ = connection.getsockname()
    except OSError:
        return None
    return str(address), int(port)
