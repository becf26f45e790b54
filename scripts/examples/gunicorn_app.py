"""gunicorn: four workers, two connections. The handle stands at module level, the workers inherit it: no hooks.

Run as it stands, this starts such a gunicorn on itself and sends it some visitors; by hand that is
`gunicorn --preload -w 4 gunicorn_app:app`. Without --preload each worker makes a pool of its own; what makes those one
budget: `mppool run -- gunicorn …`, `name=` in the pool, or two lines in `gunicorn.conf.py` (see the README).

Needs: gunicorn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from mppool import PoolManager, PySQLXEnginePoolSync

if os.environ.get("SHOP"):
    pool = PySQLXEnginePoolSync(f"sqlite:{os.environ['SHOP']}/shop.db", min_size=0, max_size=2)
    pool.start()
    with pool.connection() as conn:
        conn.raw_cmd("CREATE TABLE orders (id BIGINT, state TEXT)")
        conn.raw_cmd("INSERT INTO orders VALUES (1, 'open'), (2, 'sent'), (3, 'open')")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/budget":
        stats = PoolManager.attach(pool.stats().name).stats()
        return [f"{stats.open} of {stats.max_size} connections are open, {len(stats.members)} processes".encode()]
    with pool.connection() as conn:
        row = conn.query_first("SELECT count(*) AS n FROM orders WHERE state = :state", {"state": "open"})
    return [f"{row.n} open orders, says {os.getpid()}\n".encode()]


if __name__ == "__main__":
    from _visitors import free_port, visit

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHOP"] = folder
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        port = free_port()
        bind = ["-b", f"127.0.0.1:{port}", "--no-control-socket", "--log-level", "error"]
        visit(["-m", "gunicorn", "--preload", "-w", "4", *bind, "gunicorn_app:app"], port)
