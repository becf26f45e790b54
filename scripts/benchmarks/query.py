"""Queries on one connection, one thread: the first row, what two parameters add, 10,000 rows of 5 columns.

Rows become models, or dicts. "core, driven" is the driver below mppool without mppool's rows, errors and parameters:
what a query costs at least. Its rows are the driver's dicts. Each figure is the best of a measurement's batches: what
else the machine does only ever adds.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from scripts.benchmarks.contract import Benchmark, Sample, Setting, Skip

TIMES, BATCHES, RESULTS = 150, 12, 9
FIRST = "SELECT 1 AS a"
TWO = "SELECT 1 AS a WHERE 1 = :one AND 'x' = :letter"
PARAMETERS = {"one": 1, "letter": "x"}
# bool, Decimal, float, str, datetime, as far as each database has them
ROWS = {
    "SQLite": """WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000)
        SELECT n AS id, 'name ' || n AS name, n * 1.5 AS price, n % 2 AS ok, '2024-01-01 00:00:00' AS made FROM c""",
    "PostgreSQL": """SELECT n AS id, 'name ' || n AS name, n * 1.5::float8 AS price, n % 2 = 0 AS ok, now() AS made
        FROM generate_series(1, 10000) n""",
    "MariaDB": """SELECT seq AS id, concat('name ', seq) AS name, seq * 1.5e0 AS price,
        CAST(seq AS DECIMAL(20, 2)) AS amount, now() AS made FROM seq_1_to_10000""",
}


def _uris(setting: Setting) -> Iterator[tuple[str, str]]:
    yield "SQLite", setting.sqlite_uri
    if setting.postgres is not None:
        yield "PostgreSQL", setting.postgres
    if uri := _find_mysql():
        yield "MariaDB", uri


def _find_mysql() -> str | None:
    if uri := os.environ.get("MPPOOL_TEST_MYSQL"):
        return uri
    with socket.socket() as probe:
        probe.settimeout(1)
        return "mysql://root@127.0.0.1:3306/test" if probe.connect_ex(("127.0.0.1", 3306)) == 0 else None


def _often(call: Callable[..., object], *arguments: object) -> float:
    """Microseconds a call."""
    batches = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        for _ in range(TIMES):
            call(*arguments)
        batches.append((time.perf_counter() - start) / TIMES * 1e6)
    return min(batches)


async def _often_awaited(call: Callable[..., Awaitable[object]], *arguments: object) -> float:
    batches = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        for _ in range(TIMES):
            await call(*arguments)
        batches.append((time.perf_counter() - start) / TIMES * 1e6)
    return min(batches)


def _large(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds a call, until its result is there and has been dropped."""
    times = []
    for _ in range(RESULTS):
        gc.collect()
        start = time.perf_counter()
        call(*arguments)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def _sync(open_one: Callable[[str], Any], setting: Setting) -> dict[str, float]:
    sample = {}
    for name, uri in _uris(setting):
        conn = open_one(uri)
        conn.connect()
        first = _often(conn.query_first, FIRST)
        sample[f"{name}: first row"] = first
        sample[f"{name}: 2 parameters add"] = _often(conn.query_first, TWO, PARAMETERS) - first
        sample[f"{name}: 10,000 models"] = _large(conn.query, ROWS[name])
        sample[f"{name}: 10,000 dicts"] = _large(conn.query_as_dict, ROWS[name])
        conn.close()
    return sample


async def _async(open_one: Callable[[str], Any], setting: Setting) -> dict[str, float]:
    sample = {}
    for name, uri in _uris(setting):
        conn = open_one(uri)
        await conn.connect()
        sample[f"{name}: first row, awaited"] = await _often_awaited(conn.query_first, FIRST)
        await conn.close()
    return sample


def _mppool(setting: Setting) -> Sample:
    from mppool import PySQLXEngine, PySQLXEngineSync

    sample = _sync(PySQLXEngineSync, setting)
    for name, uri in _uris(setting):
        with PySQLXEngineSync(uri) as conn:
            sample[f"{name}: first row, to the core's"] = _to_the_cores(conn)
    return {**sample, **asyncio.run(_async(PySQLXEngine, setting))}


def _to_the_cores(conn: Any) -> float:
    """The time of a query to that of the core's call: on one connection in turn, as the two are close."""
    ask = _asking(conn._link, FIRST, None)
    ours, cores = [], []
    for _ in range(BATCHES):
        for call, times in ((lambda: conn.query_first(FIRST), ours), (ask, cores)):
            start = time.perf_counter()
            for _ in range(TIMES):
                call()
            times.append(time.perf_counter() - start)
    return min(ours) / min(cores)


def _asking(link: Any, sql: str, parameters: dict[str, Any] | None) -> Callable[[], Any]:
    """The core's call for this statement, driven as ours is."""
    from mppool.database.runtime.loop_stand_in import drive
    from mppool.database.sql import driver_statement, statements

    parsed = statements.parse(link.provider, sql)
    statement = driver_statement.build(link.driver, link.provider, parsed, sql, parameters)
    return lambda: drive(link.conn.query_typed(statement))


def _pysqlx_engine(setting: Setting) -> Sample:
    from pysqlx_engine import PySQLXEngineSync

    return _sync(lambda uri: PySQLXEngineSync(uri=uri), setting)


def _pysqlx_engine_async(setting: Setting) -> Sample:
    from pysqlx_engine import PySQLXEngine  # alone: its two kinds in one process can lock each other up

    return asyncio.run(_async(lambda uri: PySQLXEngine(uri=uri), setting))


def _core(setting: Setting) -> Sample:
    from mppool.database.connection.opening import open_link
    from mppool.settings import Database

    sample = {}
    for name, uri in _uris(setting):
        link = open_link(Database.parse(uri))
        first = _often(_asking(link, FIRST, None))
        sample[f"{name}: first row"] = first
        sample[f"{name}: 2 parameters add"] = _often(_asking(link, TWO, PARAMETERS)) - first
        sample[f"{name}: 10,000 dicts"] = _large(_all, _asking(link, ROWS[name], None))
        link.close()
    return sample


def _all(rows: Callable[[], Any]) -> Any:
    return rows().get_all()


def _psycopg(setting: Setting) -> Sample:
    import psycopg
    from psycopg.rows import dict_row

    if setting.postgres is None:
        raise Skip("no PostgreSQL: set MPPOOL_TEST_POSTGRES")
    with psycopg.connect(setting.postgres, autocommit=True, row_factory=dict_row) as conn:  # type: ignore[arg-type]
        two = "SELECT 1 AS a WHERE 1 = %(one)s AND 'x' = %(letter)s"
        first = _often(lambda: conn.execute(FIRST).fetchone())
        return {
            "PostgreSQL: first row": first,
            "PostgreSQL: 2 parameters add": _often(lambda: conn.execute(two, PARAMETERS).fetchone()) - first,
            "PostgreSQL: 10,000 dicts": _large(lambda: conn.execute(ROWS["PostgreSQL"]).fetchall()),
        }


QUESTIONS = {"first row": "µs", "first row, to the core's": "×", "first row, awaited": "µs", "2 parameters add": "µs"}
LARGE = {"10,000 models": "ms", "10,000 dicts": "ms"}

BENCHMARK = Benchmark(
    "query",
    "queries on one connection, one thread",
    {f"{name}: {what}": unit for name in ROWS for what, unit in {**QUESTIONS, **LARGE}.items()},
    {
        "mppool": _mppool,
        "pysqlx-engine": _pysqlx_engine,
        "pysqlx-engine async": _pysqlx_engine_async,
        "core, driven": _core,
        "psycopg": _psycopg,
    },
    rounds=3,
    tall=True,
)
