"""The cap, judged by the database itself: a role that may open no more than the budget."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from typing import Any

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync
from tests.process import children
from tests.waiting import until

BUDGET, PROCESSES, CALLERS = 10, 6, 8
SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "3"))


def pauses(rng: random.Random) -> float:
    """Mostly none, now and then long enough that permits wander."""
    return rng.choice([0.0, 0.0, 0.001, 0.005, 0.02, 0.3 if rng.random() < 0.05 else 0.0])


def threads(pool: PySQLXEnginePoolSync, seed: int) -> None:
    failures: list[BaseException] = []
    end = time.monotonic() + SECONDS

    def caller(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        try:
            while time.monotonic() < end:
                with pool.connection(20) as conn:
                    assert conn.query_first(f"SELECT {number} AS a").a == number
                    time.sleep(pauses(rng))
                time.sleep(pauses(rng))
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]


def tasks(pool: PySQLXEnginePool, seed: int) -> None:
    async def caller(number: int, end: float) -> None:
        rng = random.Random(seed * 100 + number)
        while time.monotonic() < end:
            async with pool.connection(20) as conn:
                assert (await conn.query_first(f"SELECT {number} AS a")).a == number
                await asyncio.sleep(pauses(rng))
            await asyncio.sleep(pauses(rng))

    async def main() -> None:
        end = time.monotonic() + SECONDS
        await asyncio.gather(*(caller(number, end) for number in range(CALLERS)))

    asyncio.run(main())


def test_no_caller_ever_sees_the_servers_limit(limited_role: Any) -> None:
    role = limited_role(BUDGET)
    with PoolManager(role.uri, BUDGET) as manager, role.judge.watch() as seen:
        pool, apool = manager.pool(), manager.async_pool()
        work = [lambda: threads(pool, os.getpid()), lambda: tasks(apool, os.getpid())]
        pids = [children.forked(work[number % 2]) for number in range(PROCESSES)]
        codes = [children.exit_code(pid) for pid in pids]
    refused = role.refusals()
    print(
        f"{PROCESSES} processes x {CALLERS} callers, {SECONDS:g} s, CONNECTION LIMIT {BUDGET}: "
        f"greatest number of backends {seen.peak}, opens the server refused (each retried unseen): {refused}"
    )
    assert codes == [0] * PROCESSES
    assert 1 < seen.peak <= BUDGET
    until(lambda: role.judge.count() == 0)
