"""Two processes and one permit: the one that waits gets the other's idle connection's permit, and connects.

``over`` is what the hand-over costs beyond a plain connect: two messages, the old connection's end, the new
permit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from typing import Any

from scripts.benchmarks.contract import Benchmark, Sample

TIMES = 60


def _player(pool: Any, line: Any) -> None:
    """Borrow once for each word from the other process, and tell how long it took."""
    while line.recv():
        line.send(_borrow(pool))


def _borrow(pool: Any) -> float:
    start = time.perf_counter()
    with pool.connection():
        return (time.perf_counter() - start) * 1e3


async def _plain_connects(uri: str) -> list[float]:
    import pysqlx_core

    times = []
    for _ in range(TIMES):
        start = time.perf_counter()
        connection = await pysqlx_core.new(uri)
        times.append((time.perf_counter() - start) * 1e3)
        del connection
        await asyncio.sleep(0.002)
    return times[5:]


def _connect_time(uri: str, line: Any) -> None:
    line.send(statistics.median(asyncio.run(_plain_connects(uri))))


def _mppool(uri: str) -> Sample:
    from mppool import PoolManager

    # in a process of its own, so that no runtime of the core runs in the parent of the one forked below
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    prober = fork.Process(target=_connect_time, args=(uri.replace("sqlite:", "file:"), theirs), daemon=True)
    prober.start()
    connect = ours.recv()
    prober.join()
    with PoolManager(uri, max_size=1) as manager:
        pool = manager.pool()
        other = fork.Process(target=_player, args=(pool, theirs), daemon=True)
        other.start()
        times = []
        for _ in range(TIMES):
            times.append(_borrow(pool))
            ours.send(True)
            times.append(ours.recv())
        ours.send(False)
        other.join()
        pool.stop()
    borrow = statistics.median(times[10:])
    return {"borrow": borrow, "connect": connect, "over": borrow - connect}


BENCHMARK = Benchmark(
    "handover",
    "a process that waits gets the permit of another's idle connection, and connects",
    {"borrow": "ms", "connect": "ms", "over": "ms"},
    {
        "mppool, SQLite": lambda setting: _mppool(setting.sqlite_uri),
        "mppool, PostgreSQL": lambda setting: _mppool(setting.postgres_uri),
    },
)
