"""The judge's process: it counts a budget's connections at the database, by host, and ends.

It comes with the budget's own uri, so by the same way as the connections that it counts. Its own connection is in the
one permit of the budget that hosts do not get.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from mppool import errors
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.uri import Database

__all__ = ["COUNT", "main"]

CONNECT = 5.0  # seconds that the connection may take, if the uri says more

#: A prepared transaction or a backend that is ending has no tag of its own; each session has.
COUNT = """
SELECT substr(split_part(application_name, ' ', 1), {length} + 1) AS host, count(*)::int AS count
FROM pg_stat_activity WHERE datname = current_database() AND starts_with(application_name, '{prefix}') GROUP BY 1
"""


def count(uri: str, prefix: str) -> dict[str, int]:
    """By host: how many connections are tagged by it. Raises: PySQLXError."""
    # Like the hosts' connections, it must not outlive a way that is cut: it would keep the next judge away.
    database = Database.parse(uri).tagged("mppool judge", CONNECT)
    with PySQLXEngineSync(str(database.uri)) as connection:
        rows = connection.query_as_dict(COUNT.format(prefix=prefix, length=len(prefix)))
    return {row["host"]: row["count"] for row in rows}


def main(task: dict[str, Any]) -> None:
    """The process's entry. What it counted goes to the standard output, as one JSON object.

    Args:
        task: uri; prefix of the tags; life, seconds.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(max(1, round(task["life"])))
    try:
        said: dict[str, Any] = {"counts": count(task["uri"], task["prefix"])}
    except (errors.PySQLXError, errors.NotConnectedError, ValueError, OSError) as error:
        said = {"error": " ".join(str(error).split())}
    os.write(1, json.dumps(said).encode())
    os._exit(0)  # the driver's threads may not be waited for
