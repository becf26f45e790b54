"""Ten threads that each wait 0.2 s for the database, through one handle with ten connections that have been used.

``first`` is the same before any query has run: whatever a pool puts off until its first query, it does there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample

THREADS = 10
QUERY = "SELECT 1 AS a FROM pg_sleep(0.2)"


def _together(borrow: Callable[[], Any], ask: Callable[[Any, str], Any]) -> float:
    """Seconds until all are done."""
    ready = threading.Barrier(THREADS + 1)

    def job() -> None:
        ready.wait()
        with borrow() as connection:
            ask(connection, QUERY)

    threads = [threading.Thread(target=job) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def _measure(peer: Any, uri: str) -> Sample:
    with peer(uri, THREADS, THREADS) as (borrow, ask):
        peers.warm_up(borrow, THREADS)
        first = _together(borrow, ask)
        return {"time": _together(borrow, ask), "first": first}


BENCHMARK = Benchmark(
    "parallel",
    "10 threads × pg_sleep(0.2) through one sync handle",
    {"time": "s", "first": "s"},
    {
        "mppool": lambda setting: _measure(peers.mppool, setting.postgres_uri),
        "psycopg_pool": lambda setting: _measure(peers.psycopg_pool, setting.postgres_uri),
        "SQLAlchemy QueuePool": lambda setting: _measure(peers.sqlalchemy, setting.postgres_uri),
        "pysqlx-engine": lambda setting: _measure(peers.pysqlx_engine, setting.postgres_uri),
    },
)
