"""The database's own count of this run's connections, taken by a process that knows nothing of mppool.

`python -m scripts.demonstration.server_count URI NAME` says "counting", counts until a line comes in, and then says
"peak samples". PostgreSQL's connections are known by their application name; MariaDB and MySQL have no such thing,
so there those that were open before the run are left out.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

INTERVAL = 0.005
QUERIES = {
    "postgresql": (
        "SELECT pid AS id FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND application_name LIKE '%{name}'"
    ),
    "mysql": (
        "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id() "
        "AND user = substring_index(user(), '@', 1)"
    ),
}


def labelled(uri: str, name: str) -> str:
    """The uri with an application name that the server will list, where servers have such a thing."""
    if not uri.startswith("postgresql:") or "application_name" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}application_name={quote(name)}"


@dataclass
class ServerCount:
    """The counting process, and in the end what it counted: `peak` connections at once, in so many `samples`."""

    uri: str
    name: str
    peak: int = 0
    samples: int = 0
    trouble: str = ""

    def start(self) -> ServerCount:
        """Begin, and return when it counts; what keeps it from counting is told in `trouble` by `stop`."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.demonstration.server_count", self.uri, self.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()
        return self

    def stop(self) -> None:
        # a word and not only the end of the pipe, whose other end forked workers may hold too
        told, errors = self.process.communicate("stop\n")
        if self.process.returncode:
            self.trouble = errors.strip().rpartition("\n")[2] or f"exit code {self.process.returncode}"
            return
        self.peak, self.samples = map(int, told.split()[-2:])
        if not self.peak:
            self.trouble = "it never saw one of them, so its count is worth nothing"


def plain_connection(uri: str) -> Any:
    """A function, ``sql -> first column of each row``, over psycopg, PyMySQL or else pysqlx-core."""
    parts = urlsplit(uri)
    try:
        if parts.scheme == "postgresql":
            import psycopg

            session = psycopg.connect(uri.partition("?")[0], autocommit=True)
            return lambda sql: [row[0] for row in session.execute(sql)]
        import pymysql

        cursor = pymysql.connect(
            host=parts.hostname or "localhost", port=parts.port or 3306, user=unquote(parts.username or ""),
            password=unquote(parts.password or ""), database=parts.path.lstrip("/"), autocommit=True,
        ).cursor()  # fmt: skip
        return lambda sql: (cursor.execute(sql), [row[0] for row in cursor.fetchall()])[1]
    except ImportError:
        import pysqlx_core

        loop = asyncio.new_event_loop()

        async def connect() -> Any:
            return await pysqlx_core.new(uri)

        async def ask(sql: str) -> list[Any]:
            statement = pysqlx_core.PySQLxStatement(parts.scheme, sql, {})
            return [row["id"] for row in await connection.query_all(statement)]

        connection = loop.run_until_complete(connect())
        return lambda sql: loop.run_until_complete(ask(sql))


def main() -> None:
    uri, name = sys.argv[1:]
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    provider = urlsplit(uri).scheme
    query = QUERIES[provider].format(name=name.replace("'", "''"))
    ask = plain_connection(uri)
    before = {*ask(query)} if provider == "mysql" else set()
    print("counting", flush=True)
    peak = samples = 0
    while not stop.wait(INTERVAL):
        peak, samples = max(peak, len({*ask(query)} - before)), samples + 1
    print(peak, samples, flush=True)


if __name__ == "__main__":
    main()
