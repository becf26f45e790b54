"""A server's own names for its connections; and how to ask it, over one connection, to end others.

A firewall, a router or a proxy that forgets a connection tells neither side. The server keeps the connection, and
counts it, for hours. Over another connection the server can be asked. A connection that it does not list has ended. A
connection on which the server waits for its client can be ended without loss, for that client has closed it. A
connection that still runs a statement is left alone.

Where the server sees the address and port that we have here, they name a connection. Elsewhere (behind a proxy) the
server's own number does, which `introduce` asks for when the connection is opened. Several servers may stand behind
one address, so the server's own name belongs to that number.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from mppool import errors
from mppool.database.connection.link_state import Name
from mppool.database.runtime.loop_stand_in import drive
from mppool.database.runtime.sockets import lent

if TYPE_CHECKING:
    from mppool.database.connection.link import Link
    from mppool.database.runtime.sockets import Descriptor

Place = tuple[str, int]  # address and port of a connection's client

__all__ = ["END", "Lost", "Name", "end_of", "ended", "introduce", "parsed", "plain", "sees"]

QUIET = 1  # seconds for which a server has waited for a client before it is told to end the connection
ANSWER = 2.0  # seconds that the server may take for an answer, and for an end
LOOK_AGAIN = 0.01  # seconds
AGE_SLACK = 1.0  # seconds by which a server's measure of a connection's age may differ from ours
POOLED = 60.0  # seconds by which a backend is older than our connection when it is a pooler's, and serves others too

# Places are "address:port"; a MySQL server that looks names up has the host's name for its address.
_WHO = {
    "postgresql": (
        "SELECT pg_backend_pid() AS id, host(inet_client_addr()) || ':' || inet_client_port() AS place, "
        "CAST(pg_postmaster_start_time() AS text) AS server"
    ),
    "mysql": (
        "SELECT id, host AS place, CONCAT_WS(' ', @@hostname, @@port, @@server_id) AS server "
        "FROM information_schema.processlist WHERE id = CONNECTION_ID()"
    ),
}
_ALL = {
    "postgresql": (
        "SELECT pid AS id, host(client_addr) || ':' || client_port AS place, "
        "CAST(extract(epoch FROM clock_timestamp() - backend_start) AS float8) AS age, CAST(wait_event_type = 'Client' "
        f"AND state_change < clock_timestamp() - interval '{QUIET} s' AS int) AS quiet FROM pg_stat_activity"
    ),
    "mysql": (
        "SELECT id, host AS place, NULL AS age, "
        "((command = 'Sleep' OR state IN ('Writing to net', 'Sending to client')) "
        f"AND time >= {QUIET}) AS quiet FROM information_schema.processlist"
    ),
}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


class Lost(NamedTuple):
    """A connection that was closed, and whose server does not end it.

    Args:
        name: by the server; None: its place names it.
        place: our end.
        since: monotonic time when it had been opened.
        closed: monotonic time when it was closed, or was to be.
    """

    name: Name | None
    place: Place | None
    since: float
    closed: float


def plain(address: str) -> str:
    """An address in the one form in which it can be compared; a host's name as it is."""
    try:
        found = ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def parsed(text: str | None) -> Place:
    """A place as a server writes it."""
    address, _, port = (text or "").rpartition(":")
    return plain(address), int(port) if port.isdigit() else 0


def end_of(descriptor: Descriptor | None) -> Place | None:
    """Our end of a connection; None: it is not known, or not TCP."""
    if descriptor is None:
        return None
    try:
        with lent(descriptor) as ours:
            name = ours.getsockname()
    except OSError:
        return None
    return (plain(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None


def sees(seen: Place, here: Place) -> bool:
    """Whether a server knows us by the address and port that we have here."""
    return seen[1] == here[1] and here[0] in {seen[0], *_addresses(seen[0])}


def _addresses(name: str) -> set[str]:
    """The addresses of a host that a server knows by its name."""
    try:
        return {plain(str(found[4][0])) for found in socket.getaddrinfo(name, None)} if name else set()
    except (OSError, UnicodeError):
        return set()


async def introduce(link: Link) -> tuple[Name, Place] | None:
    """The server's name for a connection, and the address and port that it sees; None: it does not say."""
    if link.provider not in _WHO:
        return None
    try:
        response = await link.call("query_typed", link.statement(_WHO[link.provider]))
        row = response.get_first() if len(response) else None
    except (errors.PySQLXError, errors.NotConnectedError):
        return None  # the server does not answer this; the first call will show why
    return row and (Name(int(row["id"]), str(row["server"])), parsed(row["place"]))


def ended(link: Any, lost: Iterable[Lost]) -> set[Lost]:
    """Those of ``lost`` that the server no longer has, or ends now. Blocks; any thread.

    Args:
        link: a `Link` to the same server, to ask it over.
        lost: of the same database.
    """
    server = _Server(link)
    gone = server.missing(lost, end=True)
    deadline = time.monotonic() + ANSWER
    while server.ending and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN)
        gone |= server.missing(lost, end=False)
    return gone


class _Server:
    """A server, asked over one connection. ``ending``: the numbers of connections that it has been told to end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.ending: set[int] = set()
        who = drive(introduce(link), ANSWER)
        here = end_of(link.live_socket())
        self._name, self._seen = who if who is not None else (Name(0, ""), ("", 0))
        self._here = here if here is not None and sees(self._seen, here) else None

    def _rows(self) -> list[dict[str, Any]]:
        response = drive(self._link.call("query_typed", self._link.statement(_ALL[self._link.provider])), ANSWER)
        return list(response.get_all())

    def missing(self, lost: Iterable[Lost], *, end: bool) -> set[Lost]:
        """Those that the server does not list. Raises: PySQLXError, TimeoutError."""
        rows = self._rows()
        by_id = {int(row["id"]): row for row in rows}
        by_place = {parsed(row["place"]): row for row in rows if row["place"]}
        self.ending &= by_id.keys()
        gone: set[Lost] = set()
        if self._name.id not in by_id:
            return gone  # it does not even list the connection we ask over: its list is not complete
        for each in lost:
            if each.name is not None and each.name.server == self._name.server:
                row = by_id.get(each.name.id)
            elif each.name is None and each.place is not None and self._here is not None:
                row = by_place.get(self._as_seen(each.place))
            else:
                continue
            now = time.monotonic()
            age = now - each.since if row is None or row["age"] is None else float(row["age"])
            if row is None or age + AGE_SLACK < now - each.closed:  # or the number is another connection's by now
                gone.add(each)
            elif end and row["quiet"] and age < now - each.since + POOLED:
                self._end(int(row["id"]))
        return gone

    def _as_seen(self, place: Place) -> Place:
        assert self._here is not None
        return (self._seen[0] if place[0] == self._here[0] else place[0]), place[1]

    def _end(self, connection: int) -> None:
        self.ending.add(connection)
        try:
            drive(self._link.call("raw_cmd", self._link.statement(END[self._link.provider].format(connection))), ANSWER)
        except errors.PySQLXError:
            pass  # it has just ended, or another user owns it
