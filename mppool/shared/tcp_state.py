"""Whether the other end of a TCP connection has ended its side.

An end of file does not tell: where this side was shut down for reading, so that a call in flight fails at once, reading
ends as well, and ``poll`` reports what it reports when the other end has closed. The kernel knows the difference.
"""

from __future__ import annotations

import socket

__all__ = ["peer_ended"]

_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2 = 1, 4, 5  # the states in which the other end has not ended its side


def peer_ended(connection: socket.socket) -> bool:
    """After an end of file on this connection: whether it was the other end's. True where the kernel does not tell: the
    connection is not TCP, or the system is not Linux."""
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (OSError, AttributeError):
        return True
    return state not in (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2)
