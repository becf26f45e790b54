"""A user's program with pools, for type checkers: it is checked, not run. See `test_typing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

from typing_extensions import assert_type

from mppool import (
    LOG_CONFIG,
    PoolManager,
    PySQLXEngine,
    PySQLXEnginePool,
    PySQLXEnginePoolSync,
    PySQLXEngineSync,
    errors,
    scope,
)
from mppool.integrations import gunicorn
from mppool.integrations.asgi import lifespan
from mppool.integrations.jobs import Jobs, current_pool
from mppool.stats import BudgetStats, MemberStats, PoolStats


def configure(conn: PySQLXEngineSync) -> None:
    conn.raw_cmd("PRAGMA busy_timeout = 30000")


def check(conn: PySQLXEngineSync) -> bool:
    return conn.query_first("SELECT 1 AS a") is not None


def threads() -> None:
    pool = PySQLXEnginePoolSync(
        "sqlite:./app.db", 1, 20, conn_timeout=2, name="shop", max_idle=60.0, configure=configure
    )
    pool.start()
    with pool.connection(timeout=2.5) as conn:
        assert_type(conn, PySQLXEngineSync)
    assert_type(pool.stats(), PoolStats)
    assert_type(pool.uri, str)
    assert_type(pool.max_size, int)
    assert_type(pool.closed, bool)
    pool.stop()
    with PySQLXEnginePoolSync(uri="sqlite:./app.db", min_size=0) as other:
        assert_type(other, PySQLXEnginePoolSync)


async def tasks() -> None:
    async with PySQLXEnginePool(uri="sqlite:./app.db", min_size=0, max_waiting=None) as pool:
        assert_type(pool, PySQLXEnginePool)
        async with pool.connection() as conn:
            assert_type(conn, PySQLXEngine)
    await pool.start()
    await pool.stop()


def managers() -> None:
    with PoolManager("sqlite:./app.db", max_size=4, name="shop", end_orphans=False) as manager:
        assert_type(manager, PoolManager)
        assert_type(manager.pool(min_size=3, conn_timeout=1, check=check, reset=None), PySQLXEnginePoolSync)
        assert_type(manager.async_pool(1, max_waiting=100, keep_alive=60), PySQLXEnginePool)
        stats = manager.stats()
        assert_type(stats, BudgetStats)
        assert_type(stats.members, tuple[MemberStats, ...])
        assert_type(stats.open, int)
    assert_type(PoolManager.attach("shop").pid, int)


def jobs(manager: PoolManager) -> None:
    with manager.jobs(8, start_method="spawn", min_size=1, connect_timeout=2) as workers:
        assert_type(workers, Jobs)
        assert_type(workers.map(str, [1, 2], chunksize=2, progress="texts"), list[str])
        assert_type(workers.imap(str, [1, 2]), Iterator[str])
        assert_type(workers.submit(len, "abc").result(), int)
    assert_type(current_pool(), PySQLXEnginePoolSync)


def doors(pool: PySQLXEnginePool) -> None:
    gunicorn.one_budget(globals(), "sqlite:./app.db", max_size=20, name="web")
    assert_type(lifespan(pool), Callable[[object], AbstractAsyncContextManager[None]])
    assert_type(scope.begin(20), str)
    LOG_CONFIG.PYSQLX_SQL_LOG = True
    try:
        pool.connection(timeout=0)
    except errors.ConnectError as error:
        assert_type(error.reason, str)
