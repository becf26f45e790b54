"""A worker is killed with SIGKILL while it holds four permits: how soon does another process hold all four?

SQLite, and a small worker: the kernel needs milliseconds to bury a process that uses hundreds of megabytes,
before anybody can know that it is dead. Counted from before the kill until the fourth borrower has its
connection.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import threading
import time
from typing import Any

from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.nursery import Nursery

KILLS, PERMITS = 100, 4


def _hold_all(pool: Any, line: int) -> None:
    held = [pool.connection() for _ in range(PERMITS)]
    for borrowed in held:
        borrowed.__enter__()
    os.write(line, b"%d\n" % os.getpid())
    while True:
        signal.pause()


def _mppool(setting: Setting) -> Sample:
    from mppool import PoolManager

    with PoolManager(setting.sqlite_uri, max_size=PERMITS) as manager:
        pool = manager.pool(conn_timeout=20)
        nursery = Nursery(lambda line: _hold_all(pool, line))
        times = [_one_kill(manager, pool, nursery.bear()) for _ in range(KILLS)]
        nursery.close()
        pool.stop()
    times.sort()
    return {"p50": statistics.median(times), "p99": times[int(KILLS * 0.99) - 1], "worst": times[-1]}


def _one_kill(manager: Any, pool: Any, victim: int) -> float:
    """Milliseconds from the kill until this process holds all permits."""
    taken: list[float] = []
    full = threading.Barrier(PERMITS)

    def borrower() -> None:
        with pool.connection():
            taken.append(time.perf_counter())
            full.wait(20)

    threads = [threading.Thread(target=borrower) for _ in range(PERMITS)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while sum(member.waiting for member in manager.stats().members if member.pid == os.getpid()) < PERMITS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the borrowers never waited: {manager.stats()}")
        time.sleep(0.002)
    start = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    for thread in threads:
        thread.join()
    return (max(taken) - start) * 1e3


def _semaphore(setting: Setting) -> Sample:
    """What a shared semaphore does: the permits of the dead are lost."""
    fork = multiprocessing.get_context("fork")
    permits = fork.BoundedSemaphore(PERMITS)

    def hold(line: int) -> None:
        for _ in range(PERMITS):
            permits.acquire()
        os.write(line, b"%d\n" % os.getpid())
        signal.pause()

    nursery = Nursery(hold)
    os.kill(nursery.bear(), signal.SIGKILL)
    came_back = permits.acquire(timeout=3)
    nursery.close()
    return {"p50": 3000.0, "p99": 3000.0, "worst": 3000.0} if came_back else dict.fromkeys(("p50", "p99", "worst"))


BENCHMARK = Benchmark(
    "reclaim",
    "SIGKILL of a worker with 4 permits until another process holds them, 100 kills, SQLite",
    {"p50": "ms", "p99": "ms", "worst": "ms"},
    {"mppool": _mppool, "multiprocessing.BoundedSemaphore": _semaphore},
    rounds=3,
    timeout=120,
)
