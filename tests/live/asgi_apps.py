"""The ASGI application that real servers serve in these tests: each request runs a query."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mppool import PySQLXEnginePool
from mppool.integrations.asgi import lifespan

pool = PySQLXEnginePool(
    os.environ["APP_URI"], 1, int(os.environ["APP_MAX_SIZE"]), name=os.environ.get("APP_NAME"), conn_timeout=20
)


async def answer(request: Request) -> PlainTextResponse:
    async with pool.connection() as conn:
        row = await conn.query_first("SELECT 41 + 1 AS a, pg_sleep(0.002)::text AS b")
    return PlainTextResponse(f"{row.a} {os.getpid()}\n")


app = Starlette(routes=[Route("/", answer)], lifespan=lifespan(pool))
