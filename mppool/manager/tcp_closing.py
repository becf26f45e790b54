"""Connections that their process has closed and their server has not, as the kernel knows them.

When a process is killed, the kernel closes its sockets and waits for the server's end of file (FIN_WAIT2, for a
minute). As long as it waits, the server may still be at work there. The kernel does not tell whose connections they
were. It is asked as ``ss`` asks it (Linux: sock_diag), since reading its table as text takes thirty times as long.
"""

from __future__ import annotations

import socket
import struct

from mppool.shared.descriptors import is_short

__all__ = ["half_closed"]

_SOCK_DIAG, _BY_FAMILY, _DUMP, _ERROR, _DONE = 4, 20, 0x301, 2, 3
_WAITING = 1 << 4 | 1 << 5  # FIN_WAIT1, FIN_WAIT2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBxxI2x2s44x")  # family, protocol, states, the other end's port
_OWN_PORT = struct.Struct("!4xH")  # family, state, timer, retransmissions, port


def half_closed(server: int) -> list[int] | None:
    """The local ports of this host's connections to port ``server`` of any host that were closed here and not there.
    None: this system does not tell.

    Raises: OSError: there is no free descriptor to ask with.
    """
    ports: list[int] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(1.0)
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _REQUEST.pack(family, socket.IPPROTO_TCP, _WAITING, server.to_bytes(2, "big"))
                kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
                while _add(ports, kernel.recv(65_536)):
                    pass
    except (OSError, AttributeError) as error:  # no such sockets, or none for us
        if is_short(error):
            raise
        return None
    return ports


def _add(ports: list[int], answer: bytes) -> bool:
    """Add the ports of a piece of the answer. False: it was the last. Raises: OSError."""
    at = 0
    while at < len(answer):
        length, kind, *_ = _HEADER.unpack_from(answer, at)
        if kind == _DONE:
            return False
        if kind == _ERROR:
            raise OSError("the kernel does not know such a request")
        ports.append(_OWN_PORT.unpack_from(answer, at + _HEADER.size)[0])
        at += (length + 3) & ~3
    return True
