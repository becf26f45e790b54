"""Connections that the server has killed, and those whose cached statements it no longer knows, are not lent again.

A pool does not ask the server before it lends (that is what the `check` hook is for), so one borrower finds out;
nobody after it does.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from mppool import PoolManager, errors
from tests.live.crowd import Blunt, step_through, together
from tests.process.flavours import Flavour, run
from tests.servers import Server, connect
from tests.servers import run as ask

KILLS = int(os.environ.get("MPPOOL_TEST_REPEAT", "40"))
THREADS, PERMITS = 8, 5
PATIENCE = 20.0 + KILLS / 5

OWN = {"postgresql": "SELECT pg_backend_pid() AS a", "mysql": "SELECT connection_id() AS a"}
SLOW = {"postgresql": "SELECT pg_sleep(0.01)::text AS a", "mysql": "SELECT SLEEP(0.01) AS a"}


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """The sync handle, then the async one."""
    return Flavour(request.param)


def kill(server: Server, provider: str, judge: Any, rng: random.Random) -> bool:
    """One of the connections, whatever it is doing. False: there was none, or it was gone already."""
    backends = list(judge.list())
    if not backends:
        return False
    if provider == "postgresql":
        return bool(server.run("SELECT pg_terminate_backend(%s)", (rng.choice(backends),))[0][0])
    import pymysql

    try:
        server.run(f"KILL {rng.choice(backends)}")
    except pymysql.err.OperationalError:  # no such thread any more
        return False
    return True


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
def test_a_connection_killed_by_the_server_fails_one_borrower_at_most(
    provider: str, request: pytest.FixtureRequest
) -> None:
    stem = {"postgresql": "postgres", "mysql": "mysql"}[provider]
    uri, judge = request.getfixturevalue(f"{stem}_uri"), request.getfixturevalue(f"{stem}_judge")
    failed: Counter[int] = Counter()  # by the backend's id
    seen: Counter[str] = Counter()
    over = threading.Event()

    async def caller(pool: Any, seed: int) -> None:
        rng = random.Random(seed)
        while not over.is_set():
            backend = 0
            try:
                async with pool.connection(PATIENCE) as conn:
                    backend = (await conn.query_first(OWN[provider])).a
                    assert not failed[backend], "lent again"
                    if rng.random() < 0.5:
                        async with conn.transaction():
                            await conn.query(SLOW[provider])
                    wanted = rng.randrange(10**9)
                    assert (await conn.query_first(f"SELECT {wanted} AS a")).a == wanted
                    seen["right"] += 1
            except (errors.QueryError, errors.RawCmdError, errors.StartTransactionError):
                failed[backend] += 1
                seen["failed"] += 1
            time.sleep(0.001 * rng.random())

    def killer() -> None:
        rng, killed = random.Random(0), 0
        try:
            while killed < KILLS:
                killed += kill(judge.server, provider, judge, rng)
                time.sleep(0.01)
        finally:
            over.set()

    with PoolManager(uri, PERMITS) as manager:
        pool, apool = manager.pool(), manager.async_pool()
        callers: list[Any] = [
            functools.partial(lambda seed: step_through(caller(Blunt(pool), seed)), seed) for seed in range(THREADS)
        ]
        callers += [functools.partial(lambda seed: asyncio.run(caller(apool, seed)), THREADS)]
        together([*callers, killer], PATIENCE)
        leases = [pool.connection(PATIENCE) for _ in range(PERMITS)]
        for lease in leases:
            lease.__enter__()
        for lease in leases:
            lease.__exit__(None, None, None)
        stats = pool.stats()
    print(f"{provider}: {KILLS} kills: {dict(seen)}; {stats}")
    assert 0 < seen["failed"] <= KILLS
    opened = stats.connections_num - stats.connections_errors  # one may be killed while it is opened
    assert opened <= KILLS + PERMITS, "and none was thrown away that was well"


def test_a_session_that_was_emptied_is_not_lent_again(flavour: Flavour, postgres_uri: str) -> None:
    """``DISCARD ALL`` takes the prepared statements, and the driver goes on to name them."""

    async def scenario() -> None:
        async with flavour.running(postgres_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                first = (await conn.query_first(OWN["postgresql"])).a
                await conn.raw_cmd("DISCARD ALL")
                with pytest.raises(errors.QueryError) as caught:
                    await conn.query_first(OWN["postgresql"])
                assert caught.value.code == "26000"
            async with flavour.connection(pool, 10) as conn:
                assert (await conn.query_first(OWN["postgresql"])).a != first

    run(scenario())


def test_a_cached_statement_of_a_table_that_has_changed_is_not_lent_again(flavour: Flavour, postgres_uri: str) -> None:
    admin = connect(postgres_uri)
    ask(admin, "DROP TABLE IF EXISTS changed")
    ask(admin, "CREATE TABLE changed (a INTEGER)")

    async def scenario() -> None:
        async with flavour.running(postgres_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                assert await conn.query("SELECT * FROM changed") == []
            ask(admin, "ALTER TABLE changed ADD COLUMN b INTEGER")
            ask(admin, "INSERT INTO changed VALUES (1, 2)")
            async with flavour.connection(pool) as conn:
                with pytest.raises(errors.QueryError) as caught:
                    await conn.query("SELECT * FROM changed")
                assert caught.value.code == "0A000"
            async with flavour.connection(pool, 10) as conn:
                assert await conn.query_as_dict("SELECT * FROM changed") == [{"a": 1, "b": 2}]

    try:
        run(scenario())
    finally:
        ask(admin, "DROP TABLE changed")
        admin.close()
