"""The WSGI application that a real gunicorn serves in these tests: each request runs a query."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from mppool import PySQLXEnginePoolSync

URI = os.environ["APP_URI"]
NAME = os.environ.get("APP_NAME")
MAX_SIZE = int(os.environ["APP_MAX_SIZE"])

pool = PySQLXEnginePoolSync(URI, 1, MAX_SIZE, name=NAME, conn_timeout=20)
pool.start()
if os.environ.get("APP_USE_BEFORE_FORK"):
    with pool.connection() as conn:
        conn.query_first("SELECT 1 AS a")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    seconds = 60 if environ["PATH_INFO"] == "/hang" else 0.002
    with pool.connection() as conn:
        row = conn.query_first(f"SELECT 41 + 1 AS a, pg_sleep({seconds})::text AS b")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{row.a} {os.getpid()}\n".encode()]
