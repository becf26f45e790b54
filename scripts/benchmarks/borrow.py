"""Borrow and give back an idle connection, one thread or task, nobody else about: the price of a request."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting

TIMES, BATCHES = 4000, 7


def _sync(peer: Any, uri: str) -> float:
    with peer(uri, 4, 1) as (borrow, _):
        peers.warm_up(borrow, 1)
        batches = []
        for _ in range(BATCHES):
            start = time.perf_counter()
            for _ in range(TIMES):
                with borrow():
                    pass
            batches.append((time.perf_counter() - start) / TIMES * 1e6)
    return statistics.median(batches)


async def _async(peer: Any, uri: str) -> float:
    async with peer(uri, 4, 1) as (borrow, _):
        await peers.warm_up_async(borrow, 1)
        batches = []
        for _ in range(BATCHES):
            start = time.perf_counter()
            for _ in range(TIMES):
                async with borrow():
                    pass
            batches.append((time.perf_counter() - start) / TIMES * 1e6)
    return statistics.median(batches)


def _both(sync: Any, asynchronous: Any, uri: str) -> Sample:
    return {"sync": _sync(sync, uri), "async": asyncio.run(_async(asynchronous, uri))}


def _mppool(setting: Setting) -> Sample:
    return _both(peers.mppool, peers.mppool_async, setting.sqlite_uri)


def _psycopg_pool(setting: Setting) -> Sample:
    return _both(peers.psycopg_pool, peers.psycopg_pool_async, setting.postgres_uri)


def _sqlalchemy(setting: Setting) -> Sample:
    return {"sync": _sync(peers.sqlalchemy, setting.postgres_uri)}


def _pysqlx_engine(setting: Setting) -> Sample:
    # one after the other and each alone: its two pools in one process can lock each other up
    return {"sync": _sync(peers.pysqlx_engine, setting.sqlite_uri)}


def _pysqlx_engine_async(setting: Setting) -> Sample:
    return {"async": asyncio.run(_async(peers.pysqlx_engine_async, setting.sqlite_uri))}


BENCHMARK = Benchmark(
    "borrow",
    "borrow and give back an idle connection, one thread",
    {"sync": "µs", "async": "µs"},
    {
        "mppool": _mppool,
        "psycopg_pool": _psycopg_pool,
        "SQLAlchemy QueuePool": _sqlalchemy,
        "pysqlx-engine": _pysqlx_engine,
        "pysqlx-engine async": _pysqlx_engine_async,
    },
    rounds=7,
)
