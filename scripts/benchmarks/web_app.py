"""What gunicorn serves in the web benchmarks: each request borrows a connection for one query of 2 ms, or of 200 ms.

No framework: what is to be compared is the pools. ``WEB_POOL`` says which one, "mppool", "psycopg_pool" or
"sqlalchemy"; ``WEB_URI`` and ``WEB_SIZE`` are its database and ``max_size``; ``WEB_BOUNCED`` is "1" where the database
is behind a PgBouncer; ``WEB_FACE`` is the name of the application below that will be served. SQLite has no statement
that takes its time, so there the application pauses with the connection in its hands.

The answer is 42, and how many microseconds the request waited for its connection.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

SHORT, LONG = 0.002, 0.2
STATEMENTS = {
    "postgresql": "SELECT 41 + 1 AS a FROM pg_sleep({})",
    "mysql": "SELECT 42 + SLEEP({}) AS a",
    "sqlite": "SELECT 41 + 1 AS a",
}
KIND, URI, SIZE = os.environ["WEB_POOL"], os.environ["WEB_URI"], int(os.environ["WEB_SIZE"])
ASYNC = os.environ["WEB_FACE"] == "asgi"
STATEMENT = STATEMENTS[URI.partition(":")[0]]
SQL = {seconds: STATEMENT.format(seconds) for seconds in (SHORT, LONG)}
PAUSES = URI.startswith("sqlite:")
HEAD = [("Content-Type", "text/plain"), ("Content-Length", "11")]
OURS = KIND == "mppool"

pool: Any
start: Any
stop: Any
if OURS:
    import mppool

    pool = (mppool.PySQLXEnginePool if ASYNC else mppool.PySQLXEnginePoolSync)(URI, min_size=1, max_size=SIZE)
    start, stop = pool.start, pool.stop
elif KIND == "psycopg_pool":
    import psycopg_pool

    settings: dict[str, Any] = {"autocommit": True}
    if os.environ["WEB_BOUNCED"] == "1":
        settings["prepare_threshold"] = None  # older PgBouncers do not know statements that the driver has prepared
    kind = psycopg_pool.AsyncConnectionPool if ASYNC else psycopg_pool.ConnectionPool
    pool = kind(URI, max_size=SIZE, open=False, kwargs=settings)  # min_size is 4 for who says nothing
    start, stop = pool.open, pool.close
else:
    from sqlalchemy import create_engine

    parts = urlsplit(URI)
    engine = create_engine(
        parts._replace(scheme="mysql+pymysql").geturl(),
        pool_size=SIZE,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
    )

    def start() -> None:
        pass


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    seconds = LONG if environ["PATH_INFO"] == "/long" else SHORT
    began = perf_counter()
    if KIND == "sqlalchemy":
        with engine.connect() as conn:
            waited = perf_counter() - began
            answer = conn.exec_driver_sql(SQL[seconds]).scalar()
    else:
        with pool.connection() as conn:
            waited = perf_counter() - began
            answer = conn.query_first(SQL[seconds]).a if OURS else conn.execute(SQL[seconds]).fetchone()[0]
            if PAUSES:
                time.sleep(seconds)
    start_response("200 OK", HEAD)
    return [_body(answer, waited)]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "lifespan":
        for phase, action in (("startup", start), ("shutdown", stop)):
            await receive()
            await action()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    seconds = LONG if scope["path"] == "/long" else SHORT
    began = perf_counter()
    async with pool.connection() as conn:
        waited = perf_counter() - began
        sql = SQL[seconds]
        answer = (await conn.query_first(sql)).a if OURS else (await (await conn.execute(sql)).fetchone())[0]
        if PAUSES:
            await asyncio.sleep(seconds)
    headers = [(name.lower().encode(), value.encode()) for name, value in HEAD]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _body(answer, waited)})


def _body(answer: int, waited: float) -> bytes:
    return b"%d %07d\n" % (answer, waited * 1e6)


if not ASYNC:
    start()
