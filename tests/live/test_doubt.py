"""Calls that are cancelled or time out at random under load, and what the borrowers after them get.

A connection with a call that was given up may still work on it. So whoever borrows later must find: an answer to
its own question, no open transaction, nothing half done; the pool comes back to its full size, and the server never
sees more than that. Each transaction writes two rows with one id, so that half of one would show.
MPPOOL_TEST_REPEAT is the number of events for each database; 1000 is the thorough run.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import pytest

from mppool import PoolManager, errors
from tests.live.crowd import Blunt, step_through, together
from tests.servers import Judge

EVENTS = int(os.environ.get("MPPOOL_TEST_REPEAT", "60"))
SEED = os.environ.get("MPPOOL_TEST_SEED", "1")
THREADS, TASKS, PERMITS = 6, 6, 6
PATIENCE = 20.0 + EVENTS / 5

unique = itertools.count(1)

COUNTING = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40000) SELECT MAX(n) FROM c)"
SLOW = {  # a subquery of one row that takes some 20 ms
    "postgresql": "(SELECT pg_sleep(0.02)::text)",
    "mysql": "(SELECT SLEEP(0.02))",
    "sqlite": COUNTING,
}
# Different from query to query outside a transaction, the same inside one; MySQL and SQLite say it straight.
POSTGRES_TRANSACTION = "SELECT virtualtransaction AS a FROM pg_locks WHERE pid = pg_backend_pid() LIMIT 1"


def configure(conn: Any) -> None:
    if conn.uri.startswith("sqlite"):
        conn.query("PRAGMA journal_mode = WAL")
        conn.query("PRAGMA synchronous = NORMAL")
        conn.query("PRAGMA busy_timeout = 30000")


class LivingJudge(Judge):
    """Without those that MariaDB calls killed: it hangs up, and forgets the connection a moment later."""

    def list(self, connection: Any = None) -> dict[int, str]:
        return {backend: text for backend, text in super().list(connection).items() if " Killed: " not in text}


class Run:
    """One run's books: what was struck, and which transactions are surely done, surely not, or either."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.events: Counter[str] = Counter()
        self.jobs = 0
        self.done: set[int] = set()
        self.undone: set[int] = set()
        self.either: set[int] = set()
        self.lock = threading.Lock()

    def struck(self, what: str) -> None:
        with self.lock:
            self.events[what] += 1

    @property
    def over(self) -> bool:
        return sum(self.events.values()) >= EVENTS


class Strike:
    """What is to happen to one job: nothing, or a cancellation or a time limit at one of its steps."""

    STEPS = ("borrow", "query", "slow query", "begin", "execute", "slow execute", "savepoint", "commit", "rollback")

    def __init__(self, rng: random.Random, by_task: bool) -> None:
        self.step = rng.choice(self.STEPS) if rng.random() < 0.7 else ""
        self.cancels = by_task and rng.random() < 0.6
        self.delay = rng.choice([0.0, 10 ** rng.uniform(-4.5, -1.5)]) if self.cancels else 10 ** rng.uniform(-4.5, -1.5)
        self.reached = ""
        self._timer: asyncio.TimerHandle | None = None

    def at(self, step: str) -> dict[str, float]:
        """Called just before a step, for its time limit if it has one."""
        self.reached = step
        if step != self.step:
            return {}
        if not self.cancels:
            return {"timeout": self.delay}
        task = asyncio.current_task()
        assert task is not None
        self._timer = asyncio.get_running_loop().call_later(self.delay, task.cancel)
        return {}

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def ask(run: Run, conn: Any, slow: bool, **limit: float) -> None:
    """A question of which nobody else has the answer."""
    wanted = next(unique)
    sql = f"SELECT {wanted} AS a, {SLOW[run.provider] if slow else '0'} AS b"
    assert (await conn.query_first(sql, **limit)).a == wanted, "the answer to somebody else's question"


async def probe(run: Run, conn: Any) -> None:
    """What every borrower must find."""
    await ask(run, conn, False)
    if run.provider == "mysql":
        assert (await conn.query_first("SELECT @@in_transaction AS a")).a == 0
    elif run.provider == "postgresql":
        seen = [(await conn.query_first(POSTGRES_TRANSACTION)).a for _ in range(2)]
        assert seen[0] != seen[1], "inside a transaction"
    else:
        await conn.raw_cmd("BEGIN")  # fails inside a transaction
        await conn.raw_cmd("ROLLBACK")


async def insert(run: Run, conn: Any, number: int, half: int, slow: bool, **limit: float) -> None:
    # the subquery is looked at row by row: it is not to be left out
    sql = (
        f"INSERT INTO halves SELECT {number}, {half} FROM {SLOW[run.provider]} AS s"
        if slow
        else (f"INSERT INTO halves VALUES ({number}, {half})")
    )
    if slow and run.provider == "sqlite":
        sql = f"INSERT INTO halves SELECT {number}, {half} WHERE {COUNTING} > 0"
    await conn.execute(sql, **limit)


async def write(run: Run, conn: Any, strike: Strike, rng: random.Random) -> None:
    """A transaction: a block, or by calls; committed, rolled back, or left open for the pool."""
    number = next(unique)
    end = rng.choice(["commit", "commit", "commit", "rollback", "leave open"])
    block = rng.random() < 0.4
    fate = run.undone
    try:
        async with AsyncExitStack() as stack:
            limit = strike.at("begin")
            if block and "timeout" not in limit:
                end = "commit"
                await stack.enter_async_context(conn.transaction(immediate=True))
            else:
                block = False
                await conn.begin(immediate=True, **limit)
            await insert(run, conn, number, 1, False, **strike.at("execute"))
            slow = rng.random() < 0.3
            if rng.random() < 0.3:
                strike.at("savepoint")
                async with conn.transaction():
                    await ask(run, conn, slow, **strike.at("slow query" if slow else "query"))
            await insert(run, conn, number, 2, slow, **strike.at("slow execute" if slow else "execute"))
            if end == "commit":
                fate = run.either
                limit = strike.at("commit")
                if not block:
                    await conn.commit(**limit)
            elif end == "rollback":
                await conn.rollback(**strike.at("rollback"))
        if end == "commit":
            fate = run.done
    finally:
        fate.add(number)


async def job(run: Run, pool: Any, rng: random.Random, by_task: bool) -> None:
    strike = Strike(rng, by_task)
    try:
        async with pool.connection(strike.at("borrow").get("timeout", PATIENCE)) as conn:
            await probe(run, conn)
            for _ in range(rng.randrange(1, 3)):
                if rng.random() < 0.6:
                    await write(run, conn, strike, rng)
                    break
                slow = rng.random() < 0.5
                await ask(run, conn, slow, **strike.at("slow query" if slow else "query"))
    except asyncio.CancelledError:
        assert strike.cancels, "nobody cancelled it"
        run.struck(f"cancelled at {strike.reached}")
    except errors.CallTimeoutError:
        assert not strike.cancels
        run.struck(f"timed out at {strike.reached}")
    except errors.PoolTimeoutError:
        assert strike.reached == "borrow"
        run.struck("timed out at borrow")
    except errors.StartTransactionError as error:
        if run.provider != "sqlite" or error.code != "5" or strike.step != "begin":
            raise
        run.struck("timed out at begin, by SQLite itself")
    finally:
        strike.over()
        run.jobs += 1


def thread(run: Run, pool: Any, seed: int) -> None:
    rng = random.Random(f"{SEED} thread {seed}")
    while not run.over:
        step_through(job(run, Blunt(pool), rng, False))


def tasks(run: Run, pool: Any) -> None:
    async def caller(number: int) -> None:
        rng = random.Random(f"{SEED} task {number}")
        while not run.over:
            await asyncio.create_task(job(run, pool, rng, True))

    async def main() -> None:
        await asyncio.gather(*(caller(number) for number in range(TASKS)))

    asyncio.run(main())


def full_size(run: Run, pool: Any) -> float:
    """Borrow all there is at once; the seconds until the last came."""
    began = time.monotonic()
    leases = [pool.connection(PATIENCE) for _ in range(PERMITS)]
    conns = [lease.__enter__() for lease in leases]
    took = time.monotonic() - began
    for conn in conns:
        step_through(probe(run, Blunt(conn)))
    for lease in leases:
        lease.__exit__(None, None, None)
    return took


@pytest.mark.parametrize("provider", ["sqlite", "postgresql", "mysql"])
def test_whoever_borrows_after_a_call_given_up_is_none_the_wiser(provider: str, request: pytest.FixtureRequest) -> None:
    stem = {"postgresql": "postgres"}.get(provider, provider)
    uri = request.getfixturevalue(f"{stem}_uri")
    watch: Any = nullcontext()
    if provider != "sqlite":
        judge = request.getfixturevalue(f"{stem}_judge")
        watch = LivingJudge(judge.server, judge.database).watch()
    run = Run(provider)
    began = time.monotonic()
    with watch as seen, PoolManager(uri, PERMITS) as manager:
        pool, apool = manager.pool(configure=configure), manager.async_pool(configure=configure)
        with pool.connection() as conn:
            conn.raw_cmd("DROP TABLE IF EXISTS halves")
            conn.raw_cmd("CREATE TABLE halves (id INTEGER, half INTEGER)")
        callers = [functools.partial(thread, run, pool, seed) for seed in range(THREADS)]
        together([*callers, functools.partial(tasks, run, apool)], PATIENCE)
        took = time.monotonic() - began
        until_full = full_size(run, pool)
        stats = pool.stats()
        with pool.connection() as conn:
            rows = conn.query_as_dict("SELECT id, COUNT(*) AS n FROM halves GROUP BY id")
            conn.raw_cmd("DROP TABLE halves")
    written = {row["id"] for row in rows}
    print(
        f"{provider}: {sum(run.events.values())} events in {run.jobs} jobs and {took:.1f} s; full size after "
        f"{1000 * until_full:.0f} ms; greatest number of server connections {seen.peak if seen else 'not known'} of "
        f"{PERMITS}; {len(run.done)} transactions done, {len(run.undone)} undone, {len(run.either)} either, "
        f"{len(run.either & written)} of them done; {stats}; {dict(run.events.most_common())}"
    )
    assert [row for row in rows if row["n"] != 2] == []
    assert run.done <= written
    assert not run.undone & written
    assert written <= run.done | run.either
    assert seen is None or seen.peak <= PERMITS


@pytest.mark.parametrize("how", ["timeout", "close"])
def test_a_long_rollback_is_over_before_its_place_is_taken(how: str, mysql_uri: str, mysql_judge: Judge) -> None:
    many = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 400) SELECT one.n FROM c one, c two"
    )
    with PoolManager(mysql_uri, 1) as manager:
        pool = manager.pool()
        with pool.connection() as conn:
            conn.raw_cmd("CREATE OR REPLACE TABLE rolled_back (a INTEGER)")
        try:
            with pool.connection() as conn:
                conn.begin()
                conn.execute(f"INSERT INTO rolled_back {many}")
                if how == "timeout":
                    with pytest.raises(errors.CallTimeoutError):
                        conn.query("SELECT SLEEP(0.05) AS a", timeout=0.01)
                else:
                    conn.close()
            with pool.connection(PATIENCE):
                assert len(mysql_judge.list()) == 1
        finally:
            with pool.connection(PATIENCE) as conn:
                conn.raw_cmd("DROP TABLE rolled_back")
