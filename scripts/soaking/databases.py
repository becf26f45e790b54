"""The databases of a soak: a user with as many connections as the budget has permits, and the server's own count.

All this goes through psycopg and PyMySQL: the judge is not asked through the accused.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

PROVIDERS = ("sqlite", "postgresql", "mysql")
USUAL = {
    "postgresql": ("MPPOOL_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("MPPOOL_TEST_MYSQL", "mysql://root@127.0.0.1:3306/mysql"),
}
OUTAGE = 1.0  # seconds for which a server that "restarts" admits nobody


class Server:
    """An administrative connection."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._session: Any
        if parts.scheme == "postgresql":
            import psycopg

            self._session = psycopg.connect(uri.partition("?")[0], autocommit=True)
        else:
            import pymysql

            self._session = pymysql.connect(
                host=parts.hostname or "localhost", port=parts.port or 3306, user=unquote(parts.username or ""),
                password=unquote(parts.password or ""), database=parts.path.lstrip("/"), autocommit=True,
            )  # fmt: skip

    def ask(self, sql: str) -> list[Any]:
        """The first column of each row."""
        with closing(self._session.cursor()) as cursor:
            cursor.execute(sql)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def close(self) -> None:
        self._session.close()


@dataclass
class Target:
    """What the workers use, and how its connections are counted and ended from outside.

    Args:
        uri: the workers'.
        admin: the server's administrative uri; "": a SQLite file.
        user: the workers'.
        max_size: the budget's; no more connections does the server admit.
    """

    provider: str
    uri: str
    max_size: int
    admin: str = ""
    user: str = ""

    @property
    def listing(self) -> str:
        if self.provider == "postgresql":
            return f"SELECT pid FROM pg_stat_activity WHERE usename = '{self.user}'"
        # MariaDB lists a connection for a moment after it has ended, and does not count it for its user any more.
        ended = "command = 'Killed' AND info IS NULL"
        return f"SELECT id FROM information_schema.processlist WHERE user = '{self.user}' AND NOT ({ended})"

    def count(self, server: Server) -> int:
        """The workers' connections now. Where they would be too many and MariaDB cannot say of one whether it has ended
        (Busy: its thread has locked what the list would show), it is asked again."""
        unclear = f"{self.listing} AND command = 'Busy' AND info IS NULL"
        while (count := len(server.ask(self.listing))) > self.max_size and self.provider == "mysql":
            if not server.ask(unclear):
                break
        return count

    def cut(self, server: Server) -> None:
        """To the workers as good as a restart: every connection is ended, and on PostgreSQL nobody admitted a while."""
        if self.provider == "postgresql":
            server.ask(f"ALTER ROLE {self.user} CONNECTION LIMIT 0")
            server.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.user}'")
            time.sleep(OUTAGE)
            server.ask(f"ALTER ROLE {self.user} CONNECTION LIMIT {self.max_size}")
            return
        import pymysql

        for connection in server.ask(self.listing):
            try:
                server.ask(f"KILL {connection}")
            except pymysql.err.OperationalError:
                pass  # it has ended by itself


@contextmanager
def target(provider: str, admin: str | None, max_size: int) -> Iterator[Target]:
    """A database with a user who has as many connections as the budget has permits; gone after the block."""
    if provider == "sqlite":
        with tempfile.TemporaryDirectory(prefix="mppool-soak-") as folder:
            yield Target(provider, f"sqlite:{folder}/soak.db", max_size)
        return
    variable, usual = USUAL[provider]
    admin = admin or os.environ.get(variable) or usual
    parts, name, password = urlsplit(admin), f"mppool_soak_{secrets.token_hex(3)}", secrets.token_hex(12)
    if provider == "postgresql":
        make = [f"CREATE ROLE {name} LOGIN PASSWORD '{password}' CONNECTION LIMIT {max_size}"]
        make += [f"CREATE DATABASE {name} OWNER {name}"]
        drop = [f"DROP DATABASE {name}", f"DROP ROLE {name}"]
    else:
        make = [f"CREATE USER {name} IDENTIFIED BY '{password}' WITH MAX_USER_CONNECTIONS {max_size}"]
        make += [f"CREATE DATABASE {name}", f"GRANT ALL ON {name}.* TO {name}"]
        drop = [f"DROP DATABASE {name}", f"DROP USER {name}"]
    address = f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"
    with closing(Server(admin)) as server:
        for sql in make:
            server.ask(sql)
        try:
            uri = urlunsplit(parts._replace(netloc=address, path=f"/{name}"))
            yield Target(provider, uri, max_size, admin, name)
        finally:
            for sql in drop:
                server.ask(sql)
