"""Ten threads that each wait 0.2 s for the database, through one handle with ten open connections."""

from __future__ import annotations

import threading
import time
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample

THREADS = 10


def _measure(peer: Any, uri: str) -> Sample:
    with peer(uri, THREADS, THREADS) as (borrow, ask):
        peers.warm_up(borrow, THREADS)
        ready = threading.Barrier(THREADS + 1)

        def job() -> None:
            ready.wait()
            with borrow() as connection:
                ask(connection, "SELECT 1 AS a FROM pg_sleep(0.2)")

        threads = [threading.Thread(target=job) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        return {"time": time.perf_counter() - start}


BENCHMARK = Benchmark(
    "parallel",
    "10 threads × pg_sleep(0.2) through one sync handle",
    {"time": "s"},
    {
        "mppool": lambda setting: _measure(peers.mppool, setting.postgres_uri),
        "psycopg_pool": lambda setting: _measure(peers.psycopg_pool, setting.postgres_uri),
        "SQLAlchemy QueuePool": lambda setting: _measure(peers.sqlalchemy, setting.postgres_uri),
        "pysqlx-engine": lambda setting: _measure(peers.pysqlx_engine, setting.postgres_uri),
    },
)
