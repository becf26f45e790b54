"""The database servers that live tests talk to, and the judges that count what the servers see.

A server is found, in this order: in an environment variable, on its usual local port, or started for this
run in a folder of its own. Everything administrative goes through psycopg and PyMySQL, never through mppool
or its core: the database is the judge, so it must not be asked through the accused.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import psutil
from filelock import FileLock

from tests import private_servers
from tests.private_servers import NoServer

PORTS = {"postgresql": 5432, "mysql": 3306}
VARIABLES = {"postgresql": "MPPOOL_TEST_POSTGRES", "mysql": "MPPOOL_TEST_MYSQL"}
STARTERS = {"postgresql": private_servers.start_postgres, "mysql": private_servers.start_mariadb}
USUAL = {
    "postgresql": "postgresql://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql://root@127.0.0.1:3306/mysql",
}


@dataclass(frozen=True)
class Server:
    """A server with rights to make databases and roles.

    Args:
        kind: "postgresql" or "mysql".
        uri: its administrative database.
        origin: where it was found.
    """

    kind: str
    uri: str
    origin: str

    def uri_of(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """The uri of one of its databases, as the same user or another."""
        parts = urlsplit(self.uri)
        netloc = parts.netloc
        if user is not None:
            secret = f":{password}" if password else ""
            netloc = f"{user}{secret}@{parts.netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    def connect(self, uri: str | None = None) -> Any:
        """An administrative connection in autocommit mode: psycopg's or PyMySQL's. The caller closes it."""
        return connect(uri or self.uri)

    def run(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement over a connection of its own."""
        connection = self.connect()
        try:
            return run(connection, sql, parameters)
        finally:
            connection.close()

    def create_database(self, stem: str) -> str:
        """Make a database and return its name."""
        name = f"{stem}_{secrets.token_hex(4)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, also under connections that are still open."""
        if self.kind == "postgresql":
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        else:
            self.run(f"DROP DATABASE IF EXISTS {name}")

    def judge(self, database: str, user: str | None = None) -> Judge:
        """Counts the connections to one database, or of one role."""
        return Judge(self, database, user)


def connect(uri: str) -> Any:
    """A plain connection in autocommit mode, by the uri's scheme."""
    parts = urlsplit(uri)
    if parts.scheme == "postgresql":
        import psycopg

        return psycopg.connect(uri, autocommit=True, connect_timeout=5)
    import pymysql

    options = dict(part.split("=", 1) for part in parts.query.split("&") if "=" in part)
    return pymysql.connect(
        host=parts.hostname or "localhost",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.lstrip("/") or None,
        unix_socket=options.get("socket"),
        autocommit=True,
        connect_timeout=5,
        ssl_disabled=True,  # else it reads all of the system's certificates, 55 ms of CPU for every connection
    )


def run(connection: Any, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Run one statement on such a connection; its rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


LISTING = {
    "postgresql": (
        "SELECT pid, concat(usename, '@', datname, ' ', state, ': ', left(query, 60)) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
        "AND (%s::text IS NULL OR datname = %s) AND (%s::text IS NULL OR usename = %s)"
    ),
    "mysql": (
        "SELECT id, concat(user, '@', coalesce(db, ''), ' ', command, ': ', coalesce(left(info, 60), '')) "
        "FROM information_schema.processlist WHERE id <> connection_id() "
        "AND NOT (command = 'Killed' AND info IS NULL) "  # closed, and does nothing: MariaDB lists it a moment longer
        "AND (%s IS NULL OR db = %s) AND (%s IS NULL OR user = %s)"
    ),
}


@dataclass
class Watch:
    """What a judge saw while it watched: `peak` connections at once, in so many `samples`."""

    peak: int = 0
    samples: int = 0
    series: list[tuple[float, int]] = field(default_factory=list)

    def reached(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until so many connections have been seen at once; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.peak < count and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.peak >= count


class Judge:
    """The server's own count of connections to a database (and of a role, when one is named)."""

    def __init__(self, server: Server, database: str | None, user: str | None = None) -> None:
        self.server, self.database, self.user = server, database, user

    def list(self, connection: Any = None) -> dict[int, str]:
        """Backends by id, with who and what they are."""
        parameters = (self.database, self.database, self.user, self.user)
        if connection is not None:
            return dict(run(connection, LISTING[self.server.kind], parameters))
        return dict(self.server.run(LISTING[self.server.kind], parameters))

    def count(self) -> int:
        """Connections now."""
        return len(self.list())

    def wait_for(self, wanted: Callable[[int], bool], timeout: float = 5.0) -> int:
        """Wait until the count is as wanted; the count, wanted or not after `timeout` seconds."""
        connection = self.server.connect()
        try:
            deadline = time.monotonic() + timeout
            while not wanted(count := len(self.list(connection))) and time.monotonic() < deadline:
                time.sleep(0.005)
            return count
        finally:
            connection.close()

    @contextmanager
    def watch(self, interval: float = 0.005) -> Iterator[Watch]:
        """Sample every `interval` seconds in a thread until the block ends; at least once."""
        seen, stop, connection = Watch(), threading.Event(), self.server.connect()
        failure: list[BaseException] = []

        def sample() -> None:
            try:
                while True:
                    count = len(self.list(connection))
                    seen.peak, seen.samples = max(seen.peak, count), seen.samples + 1
                    seen.series.append((time.monotonic(), count))
                    if stop.wait(interval):
                        return
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=sample, name="judge")
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()
            connection.close()
        if failure:
            raise RuntimeError("the judge could not watch to the end") from failure[0]


def find(kind: str, shared: str) -> Server:
    """A server of that kind, or `NoServer`.

    Args:
        kind: "postgresql" or "mysql".
        shared: a folder that all test processes of this run know; a server is started once, noted in it, and
            ended by `stop_private`.
    """
    if uri := os.environ.get(VARIABLES[kind]):
        return Server(kind, uri, VARIABLES[kind])
    tried = [f"{VARIABLES[kind]} is not set"]
    with socket.socket() as probe:
        probe.settimeout(2)
        listening = probe.connect_ex(("127.0.0.1", PORTS[kind])) == 0
    if listening:
        try:
            connect(USUAL[kind]).close()
        except Exception as error:
            tried.append(f"{USUAL[kind]}: {str(error).strip()}")
        else:
            return Server(kind, USUAL[kind], f"127.0.0.1:{PORTS[kind]}")
    else:
        tried.append(f"nothing listens on 127.0.0.1:{PORTS[kind]}")
    note = os.path.join(shared, f"{kind}.json")
    with FileLock(note + ".lock"):
        if not os.path.exists(note):
            try:
                made = STARTERS[kind](os.path.join(shared, kind), lambda uri: connect(uri).close())
            except NoServer as error:
                made = {"missing": str(error)}
            with open(note, "w") as file:
                json.dump(made, file)
        with open(note) as file:
            made = json.load(file)
    if "uri" not in made:
        raise NoServer("; ".join([*tried, made["missing"]]))
    return Server(kind, made["uri"], "private")


def stop_private(shared: str) -> None:
    """End the servers that `find` started for this run and remove their folder."""
    for note in glob.glob(os.path.join(shared, "*.json")):
        with open(note) as file:
            pid = json.load(file).get("pid")
        if pid is None:
            continue
        try:
            server = psutil.Process(pid)
            server.send_signal(signal.SIGINT if note.endswith("postgresql.json") else signal.SIGTERM)
            server.wait(15)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            server.kill()
    shutil.rmtree(shared, ignore_errors=True)


def server_log(server: Server) -> str | None:
    """The path of a PostgreSQL server's log, or None where it cannot be found or read."""
    folder = server.run("SELECT current_setting('data_directory')")[0][0]
    current = server.run("SELECT pg_current_logfile()")[0][0]
    places = [os.path.join(folder, current)] if current else []
    try:
        with open(os.path.join(folder, "postmaster.pid")) as file:
            places.append(os.readlink(f"/proc/{int(file.readline())}/fd/2"))  # what it writes to when nothing collects
    except (OSError, ValueError):
        pass
    return next((place for place in places if os.path.isfile(place) and os.access(place, os.R_OK)), None)


@dataclass
class LimitedRole:
    """A PostgreSQL role with a connection limit of its own.

    Args:
        uri: connect with this.
        judge: counts the role's connections.
        log: the server's log file, or None when it cannot be read.
    """

    name: str
    uri: str
    judge: Judge
    log: str | None

    def refusals(self) -> int | None:
        """Connections the server refused to this role so far, by its log; None without a log to read."""
        if self.log is None:
            return None
        with open(self.log, errors="replace") as file:
            return sum(f'too many connections for role "{self.name}"' in line for line in file)
