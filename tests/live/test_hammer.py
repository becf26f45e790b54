"""Both handles hammered while the interpreter switches threads a million times a second: the stand-in loop's trap.

The core's coroutine may be woken between its poll and the making of its future and then yields nothing to wait for.
At the usual switch interval that never shows; here it shows within seconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from mppool.database.connection import calls
from mppool.database.runtime.loop_stand_in import drive

SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "3"))
THREADS, TASKS, PERMITS = 8, 8, 6


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def threads(pool: PySQLXEnginePoolSync, end: float, seen: Counter[str], failures: list[BaseException]) -> None:
    def caller(number: int) -> None:
        rng = random.Random(number)
        turn = 0
        try:
            while time.monotonic() < end:
                turn += 1
                wanted = number * 1_000_000 + turn
                try:
                    with pool.connection(rng.choice([20, 20, 20, 0.0005])) as conn:
                        timeout = rng.uniform(0, 0.001) if rng.random() < 0.02 else None
                        row = drive(calls.query_first_as_dict(conn._link, f"SELECT {wanted} AS a", None), timeout)
                        assert row == {"a": wanted}
                        seen["queries"] += 1
                except errors.PoolTimeoutError:
                    seen["timed out borrows"] += 1
                except TimeoutError:
                    seen["timed out calls"] += 1
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=caller, args=(number,)) for number in range(1, THREADS + 1)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


async def tasks(pool: PySQLXEnginePool, end: float, seen: Counter[str]) -> None:
    async def once(wanted: int) -> None:
        async with pool.connection(20) as conn:
            assert (await conn.query_first_as_dict(f"SELECT {wanted} AS a")) == {"a": wanted}
        seen["queries"] += 1

    async def caller(number: int) -> None:
        rng = random.Random(-number)
        turn = 0
        while time.monotonic() < end:
            turn += 1
            task = asyncio.create_task(once(number * 1_000_000 + turn))
            if rng.random() < 0.05:
                await asyncio.sleep(rng.uniform(0, 0.002))
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                seen["cancelled"] += 1

    await asyncio.gather(*(caller(number) for number in range(1, TASKS + 1)))


@pytest.mark.parametrize("handles", ["threads", "tasks", "both"])
def test_no_hang_and_every_result_right(database_uri: str, handles: str) -> None:
    seen: Counter[str] = Counter()
    failures: list[BaseException] = []
    end = time.monotonic() + SECONDS
    with PoolManager(database_uri, PERMITS) as manager:
        pool, apool = manager.pool(), manager.async_pool()
        beside = threading.Thread(target=threads, args=(pool, end, seen, failures))
        if handles != "tasks":
            beside.start()
        if handles != "threads":
            asyncio.run(tasks(apool, end, seen))
        if handles != "tasks":
            beside.join()
        assert failures == []
        leases = [pool.connection(20) for _ in range(PERMITS)]  # and it comes back to full size
        for lease in leases:
            assert lease.__enter__().query_first("SELECT 1 AS a").a == 1
        for lease in leases:
            lease.__exit__(None, None, None)
        print(f"{handles}: {dict(seen)}; {pool.stats()}")
    assert seen["queries"] > 100
