"""Where a connection comes from: that is how the manager names to its helper, and a server knows, what is whose."""

from __future__ import annotations

import socket

__all__ = ["Endpoint", "endpoint"]

Endpoint = tuple[str, int]  # address and port of a connection's client


def endpoint(connection: socket.socket) -> Endpoint | None:
    """Our end of a connection. None: it is not TCP, or not connected any more."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        address, port, *_ = connection.getsockname()
    except OSError:
        return None
    return str(address), int(port)
