"""From nothing to many connections: how soon a burst of callers has what it asked for.

``full``: a cold pool of 32 and 64 callers that hold what they get, until 32 connections are in use.
``jobs``: the same pool, cold, and 64 jobs of 50 ms, until the last is done. ``grow``: from one idle
connection to 30 in use; with mppool in one of four attached processes that each have one idle, so that
three must first be called back.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting

PATIENCE = 10.0


def time_to_fill(borrow: Callable[[], Any], callers: int, wanted: int) -> float | None:
    """Milliseconds until `wanted` connections are in use at once; None after ten seconds."""
    full, lock = threading.Event(), threading.Lock()
    ready = threading.Barrier(callers + 1)
    taken: list[float] = []

    def caller() -> None:
        ready.wait()
        with borrow():
            with lock:
                taken.append(time.perf_counter())
                if len(taken) == wanted:
                    full.set()
            full.wait(PATIENCE + 1)

    threads = [threading.Thread(target=caller, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    reached = full.wait(PATIENCE)
    full.set()
    for thread in threads:
        thread.join(PATIENCE)
    return (sorted(taken)[wanted - 1] - start) * 1e3 if reached else None


def time_of_jobs(borrow: Callable[[], Any], jobs: int, seconds: float) -> float:
    """Milliseconds until the last of so many jobs, all asked for at once, is done."""
    ready = threading.Barrier(jobs + 1)

    def job() -> None:
        ready.wait()
        with borrow():
            time.sleep(seconds)

    threads = [threading.Thread(target=job) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) * 1e3


def _cold(peer: Any, uri: str) -> dict[str, float | None]:
    with peer(uri, 32, 0) as (borrow, _):
        full = time_to_fill(borrow, 64, 32)
    with peer(uri, 32, 0) as (borrow, _):
        return {"full": full, "jobs": time_of_jobs(borrow, 64, 0.05)}


def _alone(peer: Any, uri: str) -> Sample:
    sample = _cold(peer, uri)
    with peer(uri, 30, 1) as (borrow, _):
        peers.warm_up(borrow, 1)
        return {**sample, "grow": time_to_fill(borrow, 30, 30)}


def _mppool(setting: Setting) -> Sample:
    from mppool import PoolManager

    with PoolManager(setting.postgres_uri, max_size=30) as manager:
        pool = manager.pool()
        fork = multiprocessing.get_context("fork")
        others = []
        for _ in range(3):
            ours, theirs = fork.Pipe()
            others.append((fork.Process(target=_idler, args=(pool, theirs), daemon=True), ours))
            others[-1][0].start()
        for _, line in others:
            line.recv()
        peers.warm_up(pool.connection, 1)
        grow = time_to_fill(pool.connection, 30, 30)
        for process, line in others:
            line.send("done")
            process.join()
        pool.stop()
    return {**_cold(peers.mppool, setting.postgres_uri), "grow": grow}


def _idler(pool: Any, line: Any) -> None:
    with pool.connection():
        pass
    line.send(os.getpid())
    line.recv()


BENCHMARK = Benchmark(
    "burst",
    "from cold or idle to many connections in use, PostgreSQL",
    {"full": "ms", "jobs": "ms", "grow": "ms"},
    {
        "mppool": _mppool,
        "psycopg_pool": lambda setting: _alone(peers.psycopg_pool, setting.postgres_uri),
        "SQLAlchemy QueuePool": lambda setting: _alone(peers.sqlalchemy, setting.postgres_uri),
        "pysqlx-engine": lambda setting: _cold(peers.pysqlx_engine, setting.postgres_uri),
    },
    rounds=3,
    timeout=90,
)
