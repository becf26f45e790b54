"""The members' connections to the database, as the manager has them: by their sockets, shared, to hear of their end.

It never says or reads a word that matters on them: what a server says before its end of file is a living member's to
read, and is thrown away when the member has ended.
"""

from __future__ import annotations

import select
import socket

from mppool.shared.endpoints import endpoint

__all__ = ["Orphan", "Shared"]

_ENDED = getattr(select, "POLLRDHUP", 0)  # where there is none, a connection is thrown out once both sides have ended
_PIECE = 65_536  # bytes thrown away at a time
_PIECES = 16  # in a row, before others get their turn


class Shared:
    """A member's connections. Nobody tells when one is closed: the server ends its side then, and it is thrown out when
    there are many.

    Args:
        usual: as many as there may be before somebody looks.
    """

    __slots__ = ("_connections", "_look_at", "_usual")

    def __init__(self, usual: int) -> None:
        self._connections: list[socket.socket] = []
        self._usual = self._look_at = usual

    def add(self, fd: int) -> None:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        self._connections.append(connection)
        if len(self._connections) > self._look_at:
            self.prune()
            self._look_at = max(self._usual, 2 * len(self._connections))

    def forget_last(self) -> None:
        """There is no room to keep the one that was added last."""
        self._connections.pop().close()

    def prune(self) -> None:
        """Let go of those that the server has ended. What it said before is the member's to read."""
        ended = set()
        poll = select.poll()
        for connection in self._connections:
            poll.register(connection, _ENDED)
        for fd, _ in poll.poll(0):
            ended.add(fd)
        for connection in self._connections:
            if connection.fileno() in ended:
                connection.close()
        self._connections = [connection for connection in self._connections if connection.fileno() >= 0]

    def leave(self) -> list[socket.socket]:
        """The member has ended: these connections of its may still count on the server."""
        self.prune()
        left, self._connections = self._connections, []
        return left


class Orphan:
    """One connection of a member that ended. Readable when there is something to `listen` to.

    Args:
        connection: shared by the member.
        member: whose account its permit is on.
        since: monotonic time of the member's end.

    Attributes:
        endpoint: address and port of our end; None: it is not TCP, or not connected any more.
    """

    __slots__ = ("_connection", "endpoint", "member", "since")

    def __init__(self, connection: socket.socket, member: int, since: float) -> None:
        self._connection = connection
        self.member = member
        self.since = since
        self.endpoint = endpoint(connection)
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
