"""Mistakes that a type checker must find: one in each line that ends with ``# wrong``, and no others."""

from __future__ import annotations

from mppool import LOG_CONFIG, PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, scope
from mppool.integrations import gunicorn
from mppool.integrations.asgi import lifespan


def hook(number: int) -> None: ...


def managers(manager: PoolManager) -> None:
    manager.pool(min_sise=3)  # wrong
    manager.pool(min_size="3")  # wrong
    manager.pool(conn_timeout="3")  # wrong
    manager.pool(configure=hook)  # wrong
    manager.pool(max_size=3)  # wrong
    manager.async_pool(min_sise=3)  # wrong
    manager.async_pool(max_waiting=1.5)  # wrong
    manager.jobs(process=3)  # wrong
    manager.jobs(start_method="thread")  # wrong
    manager.jobs(conn_time=3)  # wrong
    manager.max_size = 3  # wrong
    PoolManager("sqlite:./x.db", max_sise=3)  # wrong
    PoolManager("sqlite:./x.db", name=3)  # wrong
    PoolManager()  # wrong
    PoolManager.attach()  # wrong


def handles() -> None:
    PySQLXEnginePoolSync("sqlite:./x.db", min_sise=3)  # wrong
    PySQLXEnginePoolSync("sqlite:./x.db")  # wrong
    PySQLXEnginePoolSync("sqlite:./x.db", 1, configure=hook)  # wrong
    PySQLXEnginePool("sqlite:./x.db", 1, 10, max_idle="60")  # wrong
    PySQLXEnginePool("sqlite:./x.db", 1, 10, 30, 900, 5, 10, "shop")  # wrong


def borrows(pool: PySQLXEnginePoolSync) -> None:
    pool.connection(timeout="3")  # wrong
    pool.connection().query("SELECT 1")  # wrong
    with pool.connection(time=3):  # wrong
        pass


async def tasks(pool: PySQLXEnginePool, threads: PySQLXEnginePoolSync) -> None:
    with pool.connection():  # wrong
        pass
    async with threads.connection():  # wrong
        pass
    with pool:  # wrong
        pass
    async with threads:  # wrong
        pass
    await pool.connection()  # wrong


def doors(pool: PySQLXEnginePool) -> None:
    gunicorn.one_budget(globals(), "sqlite:./x.db", max_size=20)  # wrong
    lifespan("sqlite:./x.db")  # wrong
    scope.begin("20")  # wrong
    LOG_CONFIG.PYSQLX_SQL_LOGS = True  # wrong
