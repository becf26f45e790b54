"""Ctrl-C at random moments, caught and gone on from: the pool has lost nothing by it.

KeyboardInterrupt comes in the main thread between any two steps of the interpreter, in a borrow, a call or a return
as well as in user code. The process under test is a child, so that an interrupt a moment too late is not pytest's.
MPPOOL_TEST_REPEAT is the number of interrupts.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from tests.live.crowd import ends
from tests.waiting import forked, until

INTERRUPTS = int(os.environ.get("MPPOOL_TEST_REPEAT", "40"))
SEED = os.environ.get("MPPOOL_TEST_SEED", "1")
PERMITS = 3
PATIENCE = 20.0 + INTERRUPTS / 5

SLOW = {
    "postgresql": "SELECT pg_sleep(0.003)::text AS a",
    "mysql": "SELECT SLEEP(0.003) AS a",
    "sqlite": (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 6000) SELECT MAX(n) AS a FROM c"
    ),
}


def work(pool: PySQLXEnginePoolSync, rng: random.Random, slow: str) -> None:
    with pool.connection(PATIENCE) as conn:
        wanted = rng.randrange(10**9)
        if rng.random() < 0.3:
            with conn.transaction():
                conn.query(slow)
        assert conn.query_first(f"SELECT {wanted} AS a").a == wanted
        conn.begin()  # fails, or is noticed, inside a transaction
        conn.rollback()


def full_size(pool: PySQLXEnginePoolSync) -> None:
    leases = [pool.connection(5) for _ in range(PERMITS)]
    for lease in leases:
        assert lease.__enter__().query_first("SELECT 1 AS a").a == 1
    for lease in leases:
        lease.__exit__(None, None, None)


def interrupted(uri: str, provider: str, beside: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, seen, over = random.Random(SEED), Counter(), threading.Event()  # type: ignore[var-annotated]
    failures: list[BaseException] = []

    def strike(after: float) -> None:
        over.wait(after)
        os.kill(os.getpid(), signal.SIGINT)

    def other(pool: PySQLXEnginePoolSync, seed: int) -> None:
        own = random.Random(seed)
        try:
            while not over.is_set():
                work(pool, own, SLOW[provider])
        except BaseException as error:
            failures.append(error)

    with PoolManager(uri, PERMITS) as manager:
        pool = manager.pool()
        full_size(pool)
        others = [threading.Thread(target=other, args=(pool, seed)) for seed in range(beside)]
        for thread in others:
            thread.start()
        for _ in range(INTERRUPTS):
            striker = threading.Thread(target=strike, args=(rng.uniform(0.0, 0.02),))
            try:
                striker.start()
                while True:
                    work(pool, rng, SLOW[provider])
            except KeyboardInterrupt:
                seen["interrupted"] += 1
            striker.join()
        over.set()
        for thread in others:
            thread.join(PATIENCE)
        assert failures == []
        try:
            full_size(pool)
        except errors.PoolTimeoutError as error:
            raise AssertionError(f"permits were lost: {error}") from None
        until(lambda: pool.stats().in_use == 0 and pool.stats().waiting == 0)
        print(f"{provider}: {dict(seen)}; {pool.stats()}", flush=True)
    assert seen["interrupted"] == INTERRUPTS


@pytest.mark.parametrize("beside", [0, 6], ids=["alone", "in line with others"])
@pytest.mark.parametrize("provider", ["sqlite", "postgresql", "mysql"])
def test_an_interrupt_costs_no_permit(provider: str, beside: int, request: pytest.FixtureRequest) -> None:
    uri: Any = request.getfixturevalue(f"{'postgres' if provider == 'postgresql' else provider}_uri")
    with forked(interrupted, uri, provider, beside) as child:
        ends(child, PATIENCE + 20)
