"""The reaper's process: it ends, on the server, the connections of processes that are gone.

It is a member of the budget like any other: it waits for a permit, and its one connection counts. It ends connections
of the same user and database that come from an endpoint which the manager names and are older than its own. It ends
nothing where the server sees this host under another address or port (another network's, a proxy's), or where there is
none (a Unix socket). It frees no permit: the server's end of file does, or the server's word that a connection is gone.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import socket
import threading
import time
from typing import Any

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.contract import END, end_of, parsed, plain, sees
from mppool.process.sync_pool import PySQLXEnginePoolSync
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared.endpoints import Endpoint
from mppool.shared.messages import Channel

__all__ = ["main"]

PATIENCE = 10.0  # seconds to wait for a permit
LIFE = 30  # seconds after which the process ends whatever it does
ANSWER = 5.0  # seconds that the manager may take for an answer
CONFIRMS = 5.0  # seconds that the server may take to end them
LOOKS = (0.01, 0.25)  # seconds between looks whether it has, at first and at most

logger = logging.getLogger("mppool.ending")

_OWN = {
    "postgresql": "SELECT host(inet_client_addr()) || ':' || inet_client_port() AS place",
    "mysql": "SELECT host AS place FROM information_schema.processlist WHERE id = CONNECTION_ID()",
}
_OLDER = {
    "postgresql": (
        "SELECT o.pid AS id, host(o.client_addr) || ':' || o.client_port AS place "
        "FROM pg_stat_activity o, pg_stat_activity me WHERE me.pid = pg_backend_pid() AND o.pid <> me.pid "
        "AND o.usename = me.usename AND o.datname = me.datname AND o.backend_start < me.backend_start"
    ),
    "mysql": (
        "SELECT o.id AS id, o.host AS place "
        "FROM information_schema.processlist o, information_schema.processlist me WHERE me.id = CONNECTION_ID() "
        "AND o.id < me.id AND o.user = me.user AND o.db <=> me.db"
    ),
}


class Server:
    """What the server says of connections, over the reaper's own.

    Attributes:
        here: this end of the reaper's connection, as seen here; None: the socket is not known, or not TCP.
    """

    def __init__(self, connection: PySQLXEngineSync) -> None:
        self._connection = connection
        self._provider = connection._link.provider
        self.here = end_of(connection._link.live_socket())
        rows = connection.query_as_dict(_OWN[self._provider])
        self._seen = parsed(rows[0]["place"] if rows else None)

    def sees_us(self) -> bool:
        """Whether the server sees this connection under the address and port that it has here."""
        return self.here is not None and sees(self._seen, self.here)

    def older(self, endpoints: list[Endpoint]) -> dict[int, Endpoint]:
        """The connections from these endpoints that are older than the reaper's, and where the server sees each."""
        wanted = set(map(self.as_seen, endpoints))
        rows = self._connection.query_as_dict(_OLDER[self._provider])
        places = {int(row["id"]): parsed(row["place"]) for row in rows if row["place"]}
        return {number: place for number, place in places.items() if place in wanted}

    def as_seen(self, endpoint: Endpoint) -> Endpoint:
        assert self.here is not None
        address = plain(endpoint[0])
        return (self._seen[0] if address == self.here[0] else address), endpoint[1]

    def end(self, connection: int) -> None:
        """End one of them. Raises: PySQLXError: it has ended just now, or this user may not end it."""
        self._connection.raw_cmd(END[self._provider].format(connection))


def _ask(manager: Channel) -> list[Endpoint]:
    """The endpoints of connections to end. They are asked for once the reaper is connected: a connection that is opened
    later from a named endpoint is younger than the reaper's, and is spared. Raises: OSError: the manager does not
    answer."""
    manager.send({"ready": True})
    while select.select([manager], [], [], ANSWER)[0] and (heard := manager.receive()) is not None:
        for message in heard[0]:
            return [(str(address), int(port)) for address, port in message["endpoints"]]
    raise TimeoutError("the manager does not answer")


def _work(connection: PySQLXEngineSync, manager: Channel) -> None:
    server = Server(connection)
    if server.here is None:
        return
    if not server.sees_us():
        manager.send({"useless": True})
        return
    endpoints = _ask(manager)
    for orphan in server.older(endpoints):
        try:
            server.end(orphan)
        except errors.PySQLXError as error:
            logger.warning("cannot end connection %d: %s", orphan, error)
    _confirm(server, endpoints, manager)


def _confirm(server: Server, endpoints: list[Endpoint], manager: Channel) -> None:
    """Wait a moment until the server has none of them any more, and tell the manager which are gone: it hears of no end
    where the connection was cut off silently."""
    backoff, give_up = Backoff(*LOOKS), time.monotonic() + CONFIRMS
    while (left := set(server.older(endpoints).values())) and time.monotonic() < give_up:
        time.sleep(backoff.failed(random.random()))
    manager.send({"gone": [endpoint for endpoint in endpoints if server.as_seen(endpoint) not in left]})


def _end_with(manager: int) -> None:
    """End this process when the manager ends. Otherwise it would keep a permit that the successor needs or, as the last
    member, would launch a successor."""
    poll = select.poll()
    poll.register(manager, 0)  # a hang-up is told in any case
    poll.poll()
    os._exit(1)


def main(task: dict[str, Any]) -> None:
    """The process's entry. Standard input is the way to the manager and back.

    Args:
        task: uri and name of the budget, and the url of its cluster's engine.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIFE)
    threading.Thread(target=_end_with, args=(0,), daemon=True).start()
    manager = Channel(socket.socket(fileno=os.dup(0)))
    cluster = task["cluster"]
    budget = BudgetSettings(task["uri"], None, task["name"] if cluster else None, cluster=cluster)
    pool: PySQLXEnginePoolSync = PySQLXEnginePoolSync._of(budget, task["name"], PoolSettings(conn_timeout=PATIENCE))
    try:
        with pool.connection() as connection:
            _work(connection, manager)
    except (errors.PoolError, errors.PySQLXError, errors.NotConnectedError, OSError) as error:
        logger.warning("cannot end what processes left behind: %s", error)
    pool.stop()
