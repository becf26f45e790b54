"""The servers in the hub: the database with its role, and the engine."""

from __future__ import annotations

import os
import secrets
import signal
from typing import Any
from urllib.parse import urlsplit

import psycopg

from mppool.cluster.contract import Engine
from scripts.namespaces.network import DATABASE, ENGINE
from tests.private_servers import Postgres, Redis

ENGINES = ("redis", "redis-aof", "postgresql")
ROLE = NAME = "shop"
JUDGE = "mppool judge"  # what connections are called that count
REFUSED = "too many connections for role"


def _answers(uri: str) -> None:
    psycopg.connect(uri).close()


def _postgres(folder: str, address: str, **more: str) -> Postgres:
    """A server that admits everybody who reaches it: only the hosts can, and they have a password."""
    server = Postgres(folder, _answers, listen_addresses=f"127.0.0.1,{address}", max_connections="200", **more)
    with open(os.path.join(server.data, "pg_hba.conf"), "a") as file:
        file.write("host all all 10.77.0.0/24 scram-sha-256\n")
    return server


class Judge:
    """The database, with a role that may have so many connections; asked about them over one connection.

    Args:
        folder: for its files; made here.
        limit: the role's CONNECTION LIMIT.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self._log = os.path.join(folder, "log")
        self._server = _postgres(folder, DATABASE)
        self._server.start()
        self._session: Any = psycopg.connect(self._server.uri, autocommit=True)
        password = secrets.token_hex(12)
        self._session.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}' CONNECTION LIMIT {limit}")
        self._session.execute(f"CREATE DATABASE {NAME} OWNER {ROLE}")
        self.uri = f"postgresql://{ROLE}:{password}@{DATABASE}:{urlsplit(self._server.uri).port}/{NAME}"

    def connections(self) -> tuple[int, int]:
        """That the role has now: of hosts, and of judges."""
        judges = f"count(*) FILTER (WHERE application_name = '{JUDGE}')"
        query = f"SELECT count(*) - {judges}, {judges} FROM pg_stat_activity WHERE usename = '{ROLE}'"
        hosts, judging = self._session.execute(query).fetchone()
        return int(hosts), int(judging)

    def refused(self) -> int:
        """Connections that the server has refused because of the limit, by its log."""
        with open(self._log, errors="replace") as file:
            return sum(REFUSED in line for line in file)

    def close(self) -> None:
        self._session.close()
        self._server.stop()


class EngineServer:
    """The engine's server, which is killed now and then.

    Args:
        kind: of `ENGINES`; "redis-aof" has everything on disk, "redis" nothing.
        folder: for its files; made here.
    """

    def __init__(self, kind: str, folder: str) -> None:
        self._server: Any
        if kind == "postgresql":
            self._server = _postgres(folder, ENGINE, fsync="on")
            self._server.start()
            self.url = self._make_role()
        else:
            keep = ["--appendonly", "yes", "--appendfsync", "always"] if kind == "redis-aof" else []
            self._server = Redis(folder, "--protected-mode", "no", *keep, address=ENGINE)
            self._server.start()
            self.url = f"redis://{ENGINE}:{self._server.port}/0"

    def _make_role(self) -> str:
        """The hosts' role; the schema is made by the first of them, whose database it is."""
        password = secrets.token_hex(12)
        with psycopg.connect(self._server.uri, autocommit=True) as session:
            session.execute(f"CREATE ROLE keeper LOGIN PASSWORD '{password}'")
            session.execute("CREATE DATABASE keeper OWNER keeper")
        return f"postgresql://keeper:{password}@{ENGINE}:{urlsplit(self._server.uri).port}/keeper"

    def client(self) -> Engine:
        """For a look at the rows."""
        if self.url.startswith("redis:"):
            from mppool.cluster.redis_engine import RedisEngine

            return RedisEngine(self.url, NAME)
        from mppool.cluster.postgres_engine import PostgresEngine

        return PostgresEngine(self.url, NAME)

    def kill(self) -> None:
        """At once; it says nothing to anybody. PostgreSQL's postmaster has its children killed, too: with them it could
        not start again."""
        self._server.stop(signal.SIGKILL if self.url.startswith("redis:") else signal.SIGQUIT)

    def start(self) -> None:
        """Again, with what is on its disk; returns when it answers."""
        self._server.start()

    def close(self) -> None:
        self._server.stop()
