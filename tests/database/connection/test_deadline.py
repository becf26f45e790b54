"""A time limit for a call: the caller is told in time, the connection is of no more use, the server is told."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection import deadline
from mppool.database.connection.async_connection import PySQLXEngine
from mppool.database.connection.sync_connection import PySQLXEngineSync

COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) SELECT count(*) AS a FROM n"


def slow(provider: str, seconds: float) -> str:
    return {
        "postgresql": f"SELECT CAST(pg_sleep({seconds}) AS text) AS a",
        "mysql": f"SELECT SLEEP({seconds}) AS a",
        "sqlite": COUNTING.format(int(seconds * 4_000_000)),
    }[provider]


def calls(conn: Any, sql: str, timeout: float) -> list[Callable[[], Any]]:
    return [
        lambda: conn.query(sql, timeout=timeout),
        lambda: conn.query_first(sql, timeout=timeout),
        lambda: conn.query_as_dict(sql, timeout=timeout),
        lambda: conn.query_first_as_dict(sql, timeout=timeout),
        lambda: conn.execute(sql, timeout=timeout),
        lambda: conn.raw_cmd(sql, timeout=timeout),
    ]


def test_in_time(conn: Any) -> None:
    conn.begin(timeout=5)
    conn.execute("INSERT INTO t VALUES (1, 'x')", timeout=5)
    assert conn.query_first("SELECT a FROM t", timeout=5).a == 1
    assert conn.query("SELECT a FROM t", timeout=5)[0].a == 1
    conn.commit(timeout=5)
    conn.start_transaction(timeout=5)
    conn.rollback(timeout=5)
    assert not conn._link.doubtful


@pytest.mark.parametrize("number", range(6))
def test_too_late(conn: Any, number: int) -> None:
    provider = conn._link.provider
    seconds = 0.6 if provider == "sqlite" else 1.5  # nothing ends SQLite's before its time
    began = time.monotonic()
    with pytest.raises(errors.CallTimeoutError, match=r"within 0\.05 s") as caught:
        calls(conn, slow(provider, seconds), 0.05)[number]()
    assert time.monotonic() - began < seconds - 0.1
    assert caught.value.code == "PYSQLX006"
    assert caught.value.error() == "CallTimeoutError"
    assert conn._link.doubtful
    assert not conn.is_healthy()
    for again in (lambda: conn.query("SELECT 1 AS a"), conn.begin, conn.rollback, lambda: conn.raw_cmd("SELECT 1")):
        with pytest.raises(errors.NotConnectedError, match="timed out"):
            again()
    conn.close()
    conn.connect()
    assert conn.query_first("SELECT 1 AS a").a == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", True])
def test_no_number_of_seconds(conn: Any, timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="timeout must be"):
        conn.query("SELECT 1 AS a", timeout=timeout)
    assert conn.query_first("SELECT 1 AS a").a == 1
    assert not conn._link.doubtful


def test_errors_of_the_database_come_through(conn: Any) -> None:
    with pytest.raises(errors.QueryError):
        conn.query("SELECT * FROM nowhere", timeout=5)
    with pytest.raises(errors.ParameterInvalidValueError):
        conn.query("SELECT :a AS a", {}, timeout=5)
    assert not conn._link.doubtful


def test_a_transaction_that_ran_out_of_time_is_left_alone(conn: Any) -> None:
    with pytest.raises(errors.CallTimeoutError), conn.transaction():
        conn.execute("INSERT INTO t VALUES (1, 'x')")
        conn.query(slow(conn._link.provider, 0.4), timeout=0.05)
    conn.close()
    conn.connect()
    assert conn.query("SELECT a FROM t") == []


def test_the_error_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(errors.CallTimeoutError("too late")))
    assert (type(again), again.code, again.message) == (errors.CallTimeoutError, "PYSQLX006", "too late")


def test_postgresql_ends_the_statement_of_a_call_given_up(postgres_uri: str, postgres_judge: Any) -> None:
    """It notices in the middle of the statement that its client has hung up."""
    conn = PySQLXEngineSync(postgres_uri)
    conn.connect()
    with pytest.raises(errors.CallTimeoutError):
        conn.query(slow("postgresql", 30), timeout=0.1)
    assert postgres_judge.wait_for(lambda count: count == 0, 5) == 0
    conn.close()


# --- asyncio ---------------------------------------------------------------------------------------------------


def test_a_cancellation_stays_one(postgres_uri: str) -> None:
    async def main() -> None:
        async with PySQLXEngine(postgres_uri) as conn:
            task = asyncio.ensure_future(conn.query(slow("postgresql", 5), timeout=4))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert conn._link.unanswered

    asyncio.run(main())


def test_late_wake_ups_disturb_nobody(postgres_uri: str) -> None:
    """The core still wakes the future of a call that was given up; the loop must not hear of an error."""
    complaints: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        conns = [PySQLXEngine(postgres_uri) for _ in range(4)]
        for conn in conns:
            await conn.connect()
        for conn in conns:
            with pytest.raises(errors.CallTimeoutError):
                await conn.query(slow("postgresql", 0.1), timeout=0.05)
        await asyncio.sleep(0.2)
        for conn in conns:
            await conn.close()

    asyncio.run(main())
    assert complaints == []


def test_the_loop_goes_on_meanwhile(postgres_uri: str) -> None:
    async def main() -> int:
        ticks = 0
        async with PySQLXEngine(postgres_uri) as conn:
            call = asyncio.ensure_future(conn.query(slow("postgresql", 0.3), timeout=2))
            while not call.done():
                await asyncio.sleep(0.01)
                ticks += 1
            await call
        return ticks

    assert asyncio.run(main()) > 10


# --- SQLite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conn", ["sync", "async"], indirect=True)
@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_a_wait_for_the_lock_ends_in_time_and_spares_the_connection(
    conn: Any, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's answer comes before the limit: here long before, so that a busy machine cannot turn that round."""
    monkeypatch.setattr(deadline, "_for_sqlite", lambda limit: 300 if limit == 20 else 5000)
    with PySQLXEngineSync(sqlite_uri) as other:
        other.begin(immediate=True)
        began = time.monotonic()
        with pytest.raises(errors.ExecuteError) as caught:
            conn.execute("INSERT INTO t VALUES (1, 'x')", timeout=20)
        assert time.monotonic() - began > 0.25
        assert caught.value.code == "5"
        assert not conn._link.doubtful
        other.rollback()
    assert list(conn.query_first_as_dict("PRAGMA busy_timeout").values()) == [5000]
    conn.execute("INSERT INTO t VALUES (1, 'x')", timeout=20)


@pytest.mark.parametrize(("limit", "patience"), [(0.001, 1), (0.1, 50), (1.0, 900), (5.0, 4500), (60.0, 54000)])
def test_sqlite_waits_for_a_lock_a_little_less_than_the_limit(limit: float, patience: int) -> None:
    assert deadline._for_sqlite(limit) == patience


def test_a_shorter_busy_timeout_of_the_users_is_kept(sqlite_uri: str) -> None:
    with PySQLXEngineSync(sqlite_uri) as conn:
        conn.raw_cmd("PRAGMA busy_timeout = 7")
        conn.query("SELECT 1 AS a", timeout=1)
        assert list(conn.query_first_as_dict("PRAGMA busy_timeout").values()) == [7]
