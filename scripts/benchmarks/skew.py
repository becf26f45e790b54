"""One busy process of four: 16 threads with 10 ms queries, 16 connections permitted over all processes.

Without a shared budget each process gets a fixed share of four, and the busy one cannot use the others'. The yardstick
is the busy process alone, with a connection of its own for each thread, and no pool.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.bouncer import bouncer
from scripts.benchmarks.contract import Benchmark, Sample, Setting

THREADS, PERMITTED, PROCESSES, SECONDS = 16, 16, 4, 2.0
QUERY = "SELECT 1 AS a FROM pg_sleep(0.01)"


def _load(borrow: Callable[[], Any], ask: Callable[[Any, str], Any]) -> Sample:
    """Queries a second and their 99th percentile, after half a second to settle."""
    times: list[list[float]] = [[] for _ in range(THREADS)]
    begin = time.monotonic() + 0.5
    end = begin + SECONDS

    def worker(own: list[float]) -> None:
        while (start := time.monotonic()) < end:
            with borrow() as connection:
                ask(connection, QUERY)
            if start >= begin:
                own.append(time.monotonic() - start)

    threads = [threading.Thread(target=worker, args=(own,)) for own in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(value for own in times for value in own)
    return {"queries": len(every) / SECONDS, "p99": every[int(len(every) * 0.99)] * 1e3}


def _mppool(setting: Setting) -> Sample:
    from mppool import PoolManager

    with PoolManager(setting.postgres_uri, max_size=PERMITTED) as manager:
        pool = manager.pool()
        fork = multiprocessing.get_context("fork")
        lines = []
        for _ in range(PROCESSES - 1):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=_bystander, args=(pool, theirs), daemon=True)
            process.start()
            lines.append((process, ours))
        for _, line in lines:
            line.recv()
        sample = _load(pool.connection, lambda connection, sql: connection.query_first(sql))
        for process, line in lines:
            line.send("done")
            process.join()
        pool.stop()
    return sample


def _bystander(pool: Any, line: Any) -> None:
    """Uses the pool once and then does other things, as a worker between requests."""
    peers.warm_up(pool.connection, 1)
    line.send("used")
    line.recv()


def _share(peer: Any, setting: Setting) -> Sample:
    share = PERMITTED // PROCESSES
    with peer(setting.postgres_uri, share, share) as (borrow, ask):
        return _load(borrow, ask)


def _bouncer(setting: Setting) -> Sample:
    with (
        bouncer(setting.postgres_uri, PERMITTED, setting.folder) as uri,
        peers.plain_psycopg(uri, THREADS, 0) as (borrow, ask),
    ):
        return _load(borrow, ask)


def _direct(setting: Setting) -> Sample:
    with peers.plain_psycopg(setting.postgres_uri, THREADS, 0) as (borrow, ask):
        return _load(borrow, ask)


BENCHMARK = Benchmark(
    "skew",
    "one busy process of four, 16 threads, 10 ms queries, 16 connections permitted",
    {"queries": "/s", "p99": "ms"},
    {
        "mppool": _mppool,
        "psycopg_pool, shares of 4": lambda setting: _share(peers.psycopg_pool, setting),
        "SQLAlchemy, shares of 4": lambda setting: _share(peers.sqlalchemy, setting),
        "pysqlx-engine, shares of 4": lambda setting: _share(peers.pysqlx_engine, setting),
        "PgBouncer, psycopg": _bouncer,
        "16 direct connections, psycopg": _direct,
    },
    rounds=3,
    more_is_better=frozenset({"queries"}),
)
