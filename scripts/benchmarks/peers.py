"""The pools under comparison behind one face: borrow a connection, ask it something.

Each function opens a pool and yields (borrow, ask): ``with borrow() as connection: ask(connection, sql)``,
or both with ``async``. Pools are as their documentation shows them; transactions are off where a driver
would begin one by itself, so that all send the same statements.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from typing import Any

Face = tuple[Callable[[], Any], Callable[[Any, str], Any]]
SyncPeer = Callable[[str, int, int], Any]  # uri, size, warm


@contextmanager
def mppool(uri: str, size: int, warm: int) -> Iterator[Face]:
    from mppool import PySQLXEnginePoolSync

    pool = PySQLXEnginePoolSync(uri=uri, min_size=warm, max_size=size, conn_timeout=60)
    pool.start()
    yield pool.connection, lambda connection, sql: connection.query_first(sql)
    pool.stop()


@contextmanager
def mppool_of(manager: Any) -> Iterator[Face]:
    """A handle on a budget that other processes use, too."""
    pool = manager.pool(conn_timeout=60)
    yield pool.connection, lambda connection, sql: connection.query_first(sql)
    pool.stop()


@contextmanager
def pysqlx_engine(uri: str, size: int, warm: int) -> Iterator[Face]:
    from pysqlx_engine import PySQLXEnginePoolSync

    least, most = _pysqlx_sizes(size, warm)
    pool = PySQLXEnginePoolSync(uri=uri, min_size=least, max_size=most, conn_timeout=60, check_interval=0.5)
    pool.start()
    yield pool.connection, lambda connection, sql: connection.query_first(sql)
    pool.stop()


def _pysqlx_sizes(size: int, warm: int) -> tuple[int, int]:
    """It refuses a ``min_size`` of 0, and one that is the ``max_size``."""
    return max(warm, 1), max(size, warm + 1)


@contextmanager
def psycopg_pool(uri: str, size: int, warm: int) -> Iterator[Face]:
    from psycopg_pool import ConnectionPool

    with ConnectionPool(uri, min_size=warm, max_size=size, timeout=60, open=False, kwargs={"autocommit": True}) as pool:
        pool.wait(30)
        yield pool.connection, lambda connection, sql: connection.execute(sql).fetchone()


@contextmanager
def sqlalchemy(uri: str, size: int, warm: int) -> Iterator[Face]:
    import psycopg
    from sqlalchemy.pool import QueuePool

    def ask(connection: Any, sql: str) -> Any:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone()

    pool = QueuePool(lambda: psycopg.connect(uri, autocommit=True), pool_size=size, max_overflow=0, timeout=60)
    yield (lambda: closing(pool.connect())), ask
    pool.dispose()


@contextmanager
def plain_psycopg(uri: str, size: int, warm: int) -> Iterator[Face]:
    """No pool here: a connection for each thread that asks, as with a proxy in front of the server."""
    import psycopg

    own, opened = threading.local(), []

    @contextmanager
    def borrow() -> Iterator[Any]:
        if not hasattr(own, "connection"):
            # transaction pooling and statements prepared by the driver do not go together in older PgBouncers
            own.connection = psycopg.connect(uri, autocommit=True, prepare_threshold=None)
            opened.append(own.connection)
        yield own.connection

    yield borrow, lambda connection, sql: connection.execute(sql).fetchone()
    for connection in opened:
        connection.close()


@asynccontextmanager
async def mppool_async(uri: str, size: int, warm: int) -> AsyncIterator[Face]:
    from mppool import PySQLXEnginePool

    pool = PySQLXEnginePool(uri=uri, min_size=warm, max_size=size, conn_timeout=60)
    await pool.start()
    yield pool.connection, lambda connection, sql: connection.query_first(sql)
    await pool.stop()


@asynccontextmanager
async def pysqlx_engine_async(uri: str, size: int, warm: int) -> AsyncIterator[Face]:
    from pysqlx_engine import PySQLXEnginePool

    least, most = _pysqlx_sizes(size, warm)
    pool = PySQLXEnginePool(uri=uri, min_size=least, max_size=most, conn_timeout=60, check_interval=0.5)
    await pool.start()
    yield pool.connection, lambda connection, sql: connection.query_first(sql)
    await pool.stop()


@asynccontextmanager
async def psycopg_pool_async(uri: str, size: int, warm: int) -> AsyncIterator[Face]:
    from psycopg_pool import AsyncConnectionPool

    async def ask(connection: Any, sql: str) -> Any:
        return await (await connection.execute(sql)).fetchone()

    async with AsyncConnectionPool(
        uri, min_size=warm, max_size=size, timeout=60, open=False, kwargs={"autocommit": True}
    ) as pool:
        await pool.wait(30)
        yield pool.connection, ask


def warm_up(borrow: Callable[[], Any], count: int) -> None:
    """Have so many connections open at once, then give them all back."""
    with ExitStack() as held:
        for _ in range(count):
            held.enter_context(borrow())


async def warm_up_async(borrow: Callable[[], Any], count: int) -> None:
    full, holding = asyncio.Event(), 0

    async def hold() -> None:
        nonlocal holding
        async with borrow():
            holding += 1
            if holding == count:
                full.set()
            await full.wait()

    await asyncio.gather(*(hold() for _ in range(count)))
