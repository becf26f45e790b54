"""Sync and async handles hammered together in one process, also beside user code that blocks in PySQLXEngine.

The core's blocking calls and its asynchronous ones deadlock for ever on one runtime, with the interpreter's lock
held: so each run is a child, which is watched from outside. MPPOOL_TEST_SECONDS=60 is the thorough run.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import itertools
import os
import random
import sys
import time
from collections import Counter
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync
from tests.live.crowd import ends, together
from tests.waiting import forked

SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "1.5"))
THREADS, TASKS, LOOPS, PERMITS, BESIDE = 6, 6, 2, 6, 2
LEAST = 20  # answers of each kind
PATIENCE = 30.0  # seconds after its time within which a run must have ended

unique = itertools.count(1)  # its next() is one step of the interpreter: no value is given twice


class Hammering:
    """Goes on for a while, and until each kind of caller has had some answers: a slow machine takes longer."""

    def __init__(self, beside: bool) -> None:
        self.end = time.monotonic() + SECONDS
        self.seen: Counter[str] = Counter()
        self._kinds = ("blocking calls", "awaited calls", *(["PySQLXEngine's calls"] if beside else []))

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end or any(self.seen[kind] < LEAST for kind in self._kinds)


def blocking(pool: PySQLXEnginePoolSync, seed: int, hammering: Hammering) -> None:
    rng = random.Random(seed)
    while hammering.goes_on:
        with pool.connection(20) as conn:
            for _ in range(rng.randrange(1, 4)):
                wanted = next(unique)
                assert conn.query_first(f"SELECT {wanted} AS a").a == wanted
                hammering.seen["blocking calls"] += 1


def awaited(pool: PySQLXEnginePool, seed: int, hammering: Hammering) -> None:
    async def caller(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        while hammering.goes_on:
            async with pool.connection(20) as conn:
                for _ in range(rng.randrange(1, 4)):
                    wanted = next(unique)
                    assert (await conn.query_first(f"SELECT {wanted} AS a")).a == wanted
                    hammering.seen["awaited calls"] += 1

    async def main() -> None:
        await asyncio.gather(*(caller(number) for number in range(TASKS)))

    asyncio.run(main())


def elsewhere(uri: str, hammering: Hammering) -> None:
    """User code of another package's, on the library as it is installed."""
    from pysqlx_engine import PySQLXEngineSync

    while hammering.goes_on:
        with PySQLXEngineSync(uri=uri) as conn:
            for _ in range(50):
                wanted = next(unique)
                assert conn.query_first(f"SELECT {wanted} AS a").a == wanted
                hammering.seen["PySQLXEngine's calls"] += 1
        time.sleep(0.001)


def hammer(uri: str, switching: bool, beside: bool) -> None:
    if switching:
        sys.setswitchinterval(1e-6)
    hammering = Hammering(beside)
    with PoolManager(uri, PERMITS) as manager:
        pool, apool = manager.pool(), manager.async_pool()
        callers: list[Any] = [functools.partial(blocking, pool, seed, hammering) for seed in range(THREADS)]
        callers += [functools.partial(awaited, apool, seed, hammering) for seed in range(LOOPS)]
        callers += [functools.partial(elsewhere, uri, hammering) for _ in range(BESIDE if beside else 0)]
        together(callers, SECONDS + PATIENCE / 2)
        assert pool.stats().connections_num == PERMITS, "no connection was doubted"
    print(f"{uri.partition(':')[0]}: {dict(hammering.seen)}", flush=True)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside PySQLXEngine"])
@pytest.mark.parametrize("switching", [False, True], ids=["usual", "switching a million times a second"])
@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
def test_no_deadlock_and_every_answer_its_own_callers(
    provider: str, switching: bool, beside: bool, request: pytest.FixtureRequest
) -> None:
    if beside and importlib.util.find_spec("pysqlx_engine") is None:
        pytest.skip("pysqlx-engine is not installed")
    uri = request.getfixturevalue({"postgresql": "postgres_uri", "mysql": "mysql_uri"}[provider])
    with forked(hammer, uri, switching, beside) as child:
        ends(child, SECONDS + PATIENCE)
