"""Finding out which of the driver's sockets a new connection has.

The driver does not tell which socket it opened; its sockets are only known as a set. Where one open runs at a time,
the socket that came is the connection's. Where several run at once, the server is asked from which port it sees the
connection come. Over a Unix socket, or behind a proxy, the server does not see our port: there, connections are opened
one after the other. A proxy's port may be ours by chance, so it takes two connections in a row to prove that ours is
seen. The socket is needed to end a call that hangs, and to learn when a server has ended a connection. A connection
whose socket could not be found works all the same.
"""

from __future__ import annotations

from mppool.database.connection.backends import introduce
from mppool.database.connection.link import Link
from mppool.database.runtime import drivers, sockets
from mppool.uri import Database

__all__ = ["find_socket", "one_by_one"]

# Servers that see our port, by database key: connections that are opened at once can be told apart.
seeing: set[str] = set()
asked: set[str] = set()  # servers that have been asked whether they do
once: set[str] = set()  # servers that saw the port of the last connection that was asked for; perhaps by chance


def one_by_one(database: Database) -> bool:
    """Must connections be opened one after the other? Yes, until the server is known to see our port."""
    return database.provider != "sqlite" and database.key not in seeing


async def find_socket(link: Link, before: set[sockets.Descriptor]) -> None:
    """Note the socket of a new connection, or the server's name for it where the server does not see our port.

    Args:
        before: the driver's sockets before this connection was opened.
    """
    key = link.database.key
    alone = claim(link, before, None) == 1
    port = sockets.local_port(link.socket) if alone and link.socket is not None else None
    if alone and key in asked and (key in seeing or port is None):
        return
    known = await introduce(link)
    if known is None:
        return
    name, (_, seen) = known
    if alone:
        asked.add(key)
        if port is None or port != seen:
            once.discard(key)
        elif key in once:
            seeing.add(key)
        else:
            once.add(key)
    elif seen:
        claim(link, before, seen)
    if key not in seeing:
        link.has_name(name)


def claim(link: Link, before: set[sockets.Descriptor], port: int | None) -> int:
    """Note the connection's socket if there is only one candidate.

    Args:
        before: the driver's sockets before this connection was opened.
        port: our end's port as the server sees it; None: not known.

    Returns the number of candidates.
    """
    with drivers.state.lock:
        owned = {other.socket for other in drivers.state.linked() if other.conn is not None}
        try:
            free = link.driver.watch.sockets() - before - owned
        except OSError:
            return 0  # no free descriptor to find out with
        if port is not None:
            free = {descriptor for descriptor in free if sockets.local_port(descriptor) == port}
        if len(free) == 1:
            link.has_socket(free.pop())
            return 1
        return len(free)
