"""What gunicorn serves in the web benchmark: each request borrows a connection for one short query.

No framework: what is to be compared is the pools. ``WEB_POOL`` says which one, "mppool" or "psycopg_pool"; ``WEB_URI``
and ``WEB_SIZE`` are its database and ``max_size``; ``WEB_BOUNCED`` is "1" where the database is behind a PgBouncer;
``WEB_FACE`` is the name of the application below that will be served.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

SQL = "SELECT 41 + 1 AS a FROM pg_sleep(0.002)"
OURS = os.environ["WEB_POOL"] == "mppool"
URI, SIZE = os.environ["WEB_URI"], int(os.environ["WEB_SIZE"])
ASYNC = os.environ["WEB_FACE"] == "asgi"
HEAD = [("Content-Type", "text/plain"), ("Content-Length", "3")]

pool: Any
if OURS:
    import mppool

    pool = (mppool.PySQLXEnginePool if ASYNC else mppool.PySQLXEnginePoolSync)(URI, min_size=1, max_size=SIZE)
    start, stop = pool.start, pool.stop
else:
    import psycopg_pool

    settings: dict[str, Any] = {"autocommit": True}
    if os.environ["WEB_BOUNCED"] == "1":
        settings["prepare_threshold"] = None  # older PgBouncers do not know statements that the driver has prepared
    kind = psycopg_pool.AsyncConnectionPool if ASYNC else psycopg_pool.ConnectionPool
    pool = kind(URI, max_size=SIZE, open=False, kwargs=settings)  # min_size is 4 for who says nothing
    start, stop = pool.open, pool.close

if not ASYNC:
    start()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    with pool.connection() as conn:
        answer = conn.query_first(SQL).a if OURS else conn.execute(SQL).fetchone()[0]
    start_response("200 OK", HEAD)
    return [b"%d\n" % answer]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "lifespan":
        for phase, action in (("startup", start), ("shutdown", stop)):
            await receive()
            await action()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    async with pool.connection() as conn:
        answer = (await conn.query_first(SQL)).a if OURS else (await (await conn.execute(SQL)).fetchone())[0]
    headers = [(name.lower().encode(), value.encode()) for name, value in HEAD]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"%d\n" % answer})
