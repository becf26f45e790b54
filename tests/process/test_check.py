"""Whether a process can serve: a borrow, a round trip, a bound."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mppool import PoolManager, errors
from tests.process.flavours import Flavour, run


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


async def check(flavour: Flavour, pool: Any, timeout: float) -> float:
    return float(await flavour._call(lambda: pool.check(timeout)))


def test_it_says_how_long_it_took(database_uri: str, flavour: Flavour) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri) as pool:
            began = time.monotonic()
            took = await check(flavour, pool, 20)
            assert 0 < took <= time.monotonic() - began
            assert (pool.stats().requests_num, pool.stats().in_use) == (1, 0)

    run(scenario())


def test_no_connection_comes_in_time(sqlite_uri: str, flavour: Flavour) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, max_size=1) as pool, flavour.connection(pool):
            with pytest.raises(errors.PoolTimeoutError):
                await check(flavour, pool, 0.05)

    run(scenario())


def test_its_bound_counts_in_a_pause_too(sqlite_uri: str, flavour: Flavour) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool = manager.pool() if flavour.name == "sync" else manager.async_pool()
        manager.pause(limit=30)
        began = time.monotonic()
        with pytest.raises(errors.PoolTimeoutError, match="paused"):
            run(check(flavour, pool, 0.3))
        assert time.monotonic() - began < 10
        manager.resume()


def test_the_database_does_not_answer_in_time(
    postgres_uri: str, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mppool.process import async_pool, sync_pool

    for module in (sync_pool, async_pool):
        monkeypatch.setattr(module, "ANSWER", "SELECT pg_sleep(30)::text AS a")

    async def scenario() -> None:
        async with flavour.running(postgres_uri) as pool:
            with pytest.raises(errors.CallTimeoutError):
                await check(flavour, pool, 0.3)

    run(scenario())
