"""Starlette on uvicorn: four workers, which uvicorn spawns and which load this file each for itself, two connections.

Run as it stands, this starts them and sends some visitors; by hand that is
`mppool run -- uvicorn --workers 4 asgi_app:app`. `mppool run` makes their pools one budget; `name=` in the pool would,
too. The lifespan starts the pool in each worker, on its event loop, and stops it there.

Needs: starlette, uvicorn.
"""

from __future__ import annotations

import os
import sys
import tempfile

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mppool import PoolManager, PySQLXEnginePool
from mppool.integrations.asgi import lifespan

pool = PySQLXEnginePool(f"sqlite:{os.environ.get('SHOP', '.')}/shop.db", min_size=0, max_size=2)


async def orders(request: Request) -> PlainTextResponse:
    async with pool.connection() as conn:
        row = await conn.query_first("SELECT count(*) AS n FROM orders WHERE state = :state", {"state": "open"})
    return PlainTextResponse(f"{row.n} open orders, says {os.getpid()}\n")


async def budget(request: Request) -> PlainTextResponse:
    stats = PoolManager.attach(pool.stats().name).stats()
    return PlainTextResponse(f"{stats.open} of {stats.max_size} connections are open, {len(stats.members)} processes")


app = Starlette(routes=[Route("/", orders), Route("/budget", budget)], lifespan=lifespan(pool))

if __name__ == "__main__":
    from _visitors import free_port, visit

    from mppool import PySQLXEngineSync

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHOP"] = folder
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        with PySQLXEngineSync(f"sqlite:{folder}/shop.db") as conn:
            conn.raw_cmd("CREATE TABLE orders (id BIGINT, state TEXT)")
            conn.raw_cmd("INSERT INTO orders VALUES (1, 'open'), (2, 'sent'), (3, 'open')")
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--workers",
            "4",
            "--port",
            str(port),
            "--log-level",
            "error",
            "asgi_app:app",
        ]
        visit(["-m", "mppool", "run", "--", *command], port)
