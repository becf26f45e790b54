"""The server under a benchmark, seen from outside: a database of the measurement's own, its connections counted.

SQLite has none: `own_database` then yields a `Database` that cannot count.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from scripts.benchmarks.contract import Setting

STATEMENTS = {
    "postgresql": {
        "drop": "DROP DATABASE {} WITH (FORCE)",
        "backends": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
        "connects": "SELECT sessions FROM pg_stat_database WHERE datname = '{}'",
    },
    "mysql": {
        "drop": "DROP DATABASE {}",
        "backends": "SELECT count(*) FROM information_schema.processlist WHERE db = '{}'",
        "connects": "SHOW GLOBAL STATUS LIKE 'Connections'",  # of the whole server: nobody else may use it meanwhile
    },
}


def _connect(uri: str) -> Any:
    if uri.startswith("postgresql:"):
        import psycopg

        return psycopg.connect(uri, autocommit=True)
    import pymysql

    return pymysql.connect(**mysql_arguments(uri), autocommit=True)


def mysql_arguments(uri: str) -> dict[str, Any]:
    """A uri as PyMySQL takes it."""
    parts = urlsplit(uri)
    return {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "database": parts.path[1:],
    }


@dataclass(frozen=True)
class Database:
    """A measurement's own database.

    Args:
        admin: the uri of the server's administrative database; None: there is no server.
    """

    uri: str
    admin: str | None

    def asks(self, what: str) -> Any:
        """A function that asks the server for a number, over one connection of its own in another database: "backends"
        this database has now, or the "connects" so far. `close` it."""
        assert self.admin is not None
        return _Question(self.admin, STATEMENTS[urlsplit(self.admin).scheme][what].format(urlsplit(self.uri).path[1:]))


class _Question:
    def __init__(self, admin: str, statement: str) -> None:
        self._connection, self._statement = _connect(admin), statement

    def __call__(self) -> int:
        cursor = self._connection.cursor()
        cursor.execute(self._statement)
        return int(cursor.fetchone()[-1])

    def close(self) -> None:
        self._connection.close()


@contextmanager
def own_database(kind: str, setting: Setting) -> Iterator[Database]:
    """
    Args:
        kind: "postgresql", "mysql" or "sqlite".

    Raises: Skip.
    """
    if kind == "sqlite":
        yield Database(setting.sqlite_uri, None)
        return
    admin = setting.postgres_uri if kind == "postgresql" else setting.mysql_uri
    name = f"mppool_bench_{secrets.token_hex(4)}"
    _run(admin, f"CREATE DATABASE {name}")
    try:
        yield Database(urlunsplit(urlsplit(admin)._replace(path=f"/{name}")), admin)
    finally:
        _run(admin, STATEMENTS[kind]["drop"].format(name))


def _run(admin: str, statement: str) -> None:
    connection = _connect(admin)
    connection.cursor().execute(statement)
    connection.close()


class Watch(threading.Thread):
    """Counts a database's backends, every 10 ms."""

    def __init__(self, database: Database) -> None:
        super().__init__(name="watch")
        self._database = database
        self._over = threading.Event()
        self._peak: int | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            backends = self._database.asks("backends")
            while not self._over.wait(0.01):
                self._peak = max(self._peak or 0, backends())
            backends.close()
        except Exception as error:
            self._error = error

    def end(self) -> None:
        self._over.set()
        self.join()

    def peak(self) -> int:
        """The greatest number seen. Raises: RuntimeError: it could not be watched to the end."""
        if self._peak is None or self._error is not None:
            raise RuntimeError("the backends could not be counted") from self._error
        return self._peak


def reconnect_cost(uri: str) -> float:
    """Seconds that mppool needs to open a connection when nothing else happens: the least of eight."""
    from mppool import PySQLXEngineSync

    took = []
    for _ in range(8):
        connection = PySQLXEngineSync(uri)
        began = time.perf_counter()
        connection.connect()
        took.append(time.perf_counter() - began)
        connection.close()
    return min(took)
