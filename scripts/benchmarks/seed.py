"""The workload of PySQLXEngine's own pool example: 1000 jobs of 0.1 to 0.5 s on 30 connections.

The times are drawn from a seed, so the floor (their sum divided by 30) is the same for all. mppool is
measured over four processes, as the demo does, and alone in one like the others.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting

JOBS, SIZE, AT_ONCE = 1000, 30, 50
QUERY = "SELECT 1 AS a"
_draw = random.Random(1)
HOLDS = [_draw.uniform(0.1, 0.5) for _ in range(JOBS)]
FLOOR = sum(HOLDS) / SIZE


def _sample(seconds: float) -> Sample:
    return {"wall": seconds, "floor": seconds / FLOOR}


def _threads(borrow: Any, ask: Any, holds: list[float]) -> None:
    def job(hold: float) -> None:
        with borrow() as connection:
            ask(connection, QUERY)
            time.sleep(hold)

    with ThreadPoolExecutor(AT_ONCE) as executor:
        list(executor.map(job, holds))


async def _tasks(borrow: Any, ask: Any, holds: list[float]) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def job(hold: float) -> None:
        async with room, borrow() as connection:
            await ask(connection, QUERY)
            await asyncio.sleep(hold)

    await asyncio.gather(*map(job, holds))


def _sync(peer: Any, uri: str) -> Sample:
    start = time.perf_counter()
    with peer(uri, SIZE, 5) as (borrow, ask):
        _threads(borrow, ask, HOLDS)
        return _sample(time.perf_counter() - start)


def _async(peer: Any, uri: str) -> Sample:
    async def main() -> Sample:
        start = time.perf_counter()
        async with peer(uri, SIZE, 5) as (borrow, ask):
            await _tasks(borrow, ask, HOLDS)
            return _sample(time.perf_counter() - start)

    return asyncio.run(main())


def _four_processes(setting: Setting) -> Sample:
    from mppool import PoolManager

    fork = multiprocessing.get_context("fork")
    start = time.perf_counter()
    with PoolManager(setting.sqlite_uri, max_size=SIZE) as manager:
        handles = (manager.pool(conn_timeout=60), manager.async_pool(conn_timeout=60))
        workers = [fork.Process(target=_worker, args=(handles[n // 2], n), daemon=True) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError(f"workers ended with {[worker.exitcode for worker in workers]}")
        return _sample(time.perf_counter() - start)


def _worker(pool: Any, number: int) -> None:
    def ask(connection: Any, sql: str) -> Any:
        return connection.query_first(sql)

    if number < 2:
        _threads(pool.connection, ask, HOLDS[number::4])
    else:
        asyncio.run(_tasks(pool.connection, ask, HOLDS[number::4]))


BENCHMARK = Benchmark(
    "seed",
    f"1000 jobs of 0.1–0.5 s, 30 connections, floor {FLOOR:.2f} s; SQLite (psycopg_pool: PostgreSQL)",
    {"wall": "s", "floor": "× floor"},
    {
        "mppool, 4 processes": _four_processes,
        "mppool sync": lambda setting: _sync(peers.mppool, setting.sqlite_uri),
        "mppool async": lambda setting: _async(peers.mppool_async, setting.sqlite_uri),
        "pysqlx-engine sync": lambda setting: _sync(peers.pysqlx_engine, setting.sqlite_uri),
        "pysqlx-engine async": lambda setting: _async(peers.pysqlx_engine_async, setting.sqlite_uri),
        "psycopg_pool sync": lambda setting: _sync(peers.psycopg_pool, setting.postgres_uri),
        "psycopg_pool async": lambda setting: _async(peers.psycopg_pool_async, setting.postgres_uri),
    },
    rounds=1,
    timeout=120,
)
