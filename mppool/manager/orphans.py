"""Connections that their processes left behind.

A server goes on with the statement of a process that was killed, and as long as it does, the connection counts there.
So each member shares its connections' sockets with the manager. When the member ends, the manager hangs up on them and
waits for the server's end of file, which is the server's own word that a connection is gone: idle ones go at once,
PostgreSQL looks for its client during a statement, others end with the statement. The manager never speaks to a
database.
"""

from __future__ import annotations

import socket

__all__ = ["Orphan", "shared"]

_PIECE = 65_536  # bytes thrown away at a time
_PIECES = 16  # in a row, before others get their turn


def shared(fd: int) -> socket.socket:
    """A member's connection, by its descriptor; closing it closes only ours."""
    connection = socket.socket(fileno=fd)
    connection.setblocking(False)
    return connection


class Orphan:
    """One connection of a member that ended. Readable when there is something to `listen` to.

    Args:
        connection: shared by the member.
        member: whose account its permit is on.
        give_up_at: monotonic time at which it counts as gone whatever the server does.
    """

    __slots__ = ("_connection", "give_up_at", "member")

    def __init__(self, connection: socket.socket, member: int, give_up_at: float) -> None:
        self._connection = connection
        self.member = member
        self.give_up_at = give_up_at
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server was faster: that is read soon

    def fileno(self) -> int:
        return self._connection.fileno()

    def listen(self) -> bool:
        """Throw away what the server still says; True: it has ended its side."""
        try:
            for _ in range(_PIECES):
                if not self._connection.recv(_PIECE):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def close(self) -> None:
        self._connection.close()
