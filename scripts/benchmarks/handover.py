"""Two processes and one permit: the one that waits gets the other's idle connection's permit, and connects.

``over`` is what the hand-over costs beyond a plain connect: two messages, the old connection's end, the new permit.
The plain connect is that of a connection used on its own, in a process that does nothing else. Both are measured back
to back, and with rests of 20 ms, after which the processors have gone to sleep and the other's connection has been
idle for a while (one that was given back a moment ago stays for as long as a connect takes, in case it is used again).
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

from scripts.benchmarks.contract import Benchmark, Sample

TIMES, REST = 60, 0.02


def _player(pool: Any, line: Any) -> None:
    """Borrow once for each word from the other process, and tell how long it took."""
    while line.recv():
        line.send(_borrow(pool))


def _borrow(pool: Any) -> float:
    start = time.perf_counter()
    with pool.connection():
        return (time.perf_counter() - start) * 1e3


def _connect_time(uri: str, rest: float, line: Any) -> None:
    from mppool import PySQLXEngineSync

    times = []
    for _ in range(TIMES):
        connection = PySQLXEngineSync(uri)
        start = time.perf_counter()
        connection.connect()
        times.append((time.perf_counter() - start) * 1e3)
        connection.close()
        time.sleep(max(rest, 0.002))  # the server needs a moment to let go
    line.send(statistics.median(times[5:]))


def _mppool(uri: str, rest: float) -> Sample:
    from mppool import PoolManager

    # in a process of its own, so that no runtime of the core runs in the parent of the one forked below
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    prober = fork.Process(target=_connect_time, args=(uri, rest, theirs), daemon=True)
    prober.start()
    connect = ours.recv()
    prober.join()
    with PoolManager(uri, max_size=1) as manager:
        pool = manager.pool()
        other = fork.Process(target=_player, args=(pool, theirs), daemon=True)
        other.start()
        times = []
        for _ in range(TIMES):
            time.sleep(rest)
            times.append(_borrow(pool))
            time.sleep(rest)
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
        "SQLite, back to back": lambda setting: _mppool(setting.sqlite_uri, 0.0),
        "SQLite, rested": lambda setting: _mppool(setting.sqlite_uri, REST),
        "PostgreSQL, back to back": lambda setting: _mppool(setting.postgres_uri, 0.0),
        "PostgreSQL, rested": lambda setting: _mppool(setting.postgres_uri, REST),
    },
    compare=False,
)
