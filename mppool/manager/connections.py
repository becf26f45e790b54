"""The members' connections to the database, as the manager has them: shared sockets, by which it sees their end.

The manager sends nothing on them. While a member lives, only the member reads from them; when it has ended, the manager
reads what the server still sends, and drops it.
"""

from __future__ import annotations

import select
import socket

from mppool.shared.endpoints import endpoint
from mppool.shared.tcp_state import peer_ended

__all__ = ["Orphan", "Shared"]

_ENDED = getattr(select, "POLLRDHUP", 0)  # without it, a connection is dropped once both sides have ended
_PIECE = 65_536  # bytes dropped at a time
_PIECES = 16  # in a row, before other connections are read


class Shared:
    """A member's connections. The member does not tell when it closes one: the server ends its side then, and the
    connection is dropped once there are many.

    Args:
        usual: as many as there may be before ended ones are looked for.
    """

    __slots__ = ("_connections", "_look_at", "_usual")

    def __init__(self, usual: int) -> None:
        self._connections: list[socket.socket] = []
        self._usual = self._look_at = usual

    def __bool__(self) -> bool:
        return bool(self._connections)

    def add(self, fd: int) -> None:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        self._connections.append(connection)
        if len(self._connections) > self._look_at:
            self.prune()
            self._look_at = max(self._usual, 2 * len(self._connections))

    def forget_last(self) -> None:
        """Close the one that was added last: there is no room for it."""
        self._connections.pop().close()

    def prune(self) -> None:
        """Close those that the server has ended. What it sent before is the member's to read."""
        ended = set()
        poll = select.poll()
        for connection in self._connections:
            poll.register(connection, _ENDED)
        for fd, _ in poll.poll(0):
            ended.add(fd)
        for connection in self._connections:
            if connection.fileno() in ended and peer_ended(connection):
                connection.close()
        self._connections = [connection for connection in self._connections if connection.fileno() >= 0]

    def close(self) -> None:
        """Close these copies, without a word to the server or the member."""
        for connection in self._connections:
            connection.close()
        self._connections = []

    def leave(self) -> list[socket.socket]:
        """The member has ended; those of its connections that the server may not have ended."""
        self.prune()
        left, self._connections = self._connections, []
        return left


class Orphan:
    """One connection of a member that has ended. When it is readable, `listen`.

    Args:
        connection: shared by the member.
        member: whose account its permit is on.
        since: monotonic time of the member's end.

    Attributes:
        deaf: the member had shut its side down for reading: nothing tells of the server's end, one has to look.
        reset: it is over, but the server may still have to see that.
        endpoint: address and port of our end; None: it is not TCP, or not connected any more.
    """

    __slots__ = ("_connection", "deaf", "endpoint", "member", "reset", "since")

    def __init__(self, connection: socket.socket, member: int, since: float) -> None:
        self._connection = connection
        self.deaf = self.reset = False
        self.member = member
        self.since = since
        self.endpoint = endpoint(connection)
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has ended it already, which is read soon

    def fileno(self) -> int:
        return self._connection.fileno()

    def listen(self) -> bool:
        """Read and drop what the server still sends; True: it has ended its side."""
        try:
            for _ in range(_PIECES):
                if not self._connection.recv(_PIECE):
                    self.deaf = not peer_ended(self._connection)
                    return not self.deaf
        except BlockingIOError:
            return False
        except OSError:
            self.reset = True
            return True
        return False

    def close(self) -> None:
        self._connection.close()
