"""Both connections, call by call, on three databases; alone and lent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection.async_connection import PySQLXEngine
from mppool.database.connection.link import Link
from mppool.database.connection.opening import open_link
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.settings import Database


def fill(conn: Any, *rows: tuple[int, str]) -> None:
    for a, b in rows:
        assert conn.execute("INSERT INTO t VALUES (:a, :b)", {"a": a, "b": b}) == 1


def test_queries(conn: Any) -> None:
    fill(conn, (1, "x"), (2, ":a"))
    sql = "SELECT a, b FROM t WHERE a >= :least ORDER BY a"
    rows = conn.query(sql, {"least": 1})
    assert [(row.a, row.b) for row in rows] == [(1, "x"), (2, ":a")]
    assert conn.query_first(sql, {"least": 2}).b == ":a"
    assert conn.query_as_dict(sql, {"least": 1}) == [{"a": 1, "b": "x"}, {"a": 2, "b": ":a"}]
    assert conn.query_first_as_dict(sql, {"least": 1}) == {"a": 1, "b": "x"}


def test_no_rows(conn: Any) -> None:
    sql = "SELECT a FROM t"
    assert conn.query(sql) == []
    assert conn.query_first(sql) is None
    assert conn.query_as_dict(sql) == []
    assert conn.query_first_as_dict(sql) is None


def test_execute_counts(conn: Any) -> None:
    fill(conn, (1, "x"), (2, "x"))
    assert conn.execute("UPDATE t SET b = :b", {"b": "y"}) == 2
    assert conn.execute("DELETE FROM t WHERE a = :a", {"a": 9}) == 0


def test_transactions(conn: Any) -> None:
    for finish, left in (("rollback", 0), ("commit", 1)):
        conn.begin()
        assert conn._link.in_transaction
        fill(conn, (1, "x"))
        getattr(conn, finish)()
        assert not conn._link.in_transaction
        assert len(conn.query("SELECT a FROM t")) == left


def test_transactions_by_hand_are_seen(conn: Any) -> None:
    conn.raw_cmd("BEGIN")
    assert conn._link.in_transaction
    conn.raw_cmd("ROLLBACK")
    assert not conn._link.in_transaction


def test_reset_rolls_back(conn: Any) -> None:
    conn.begin()
    fill(conn, (1, "x"))
    with pytest.raises(errors.PySQLXError):
        conn.query("SELECT nonsense FROM t")  # PostgreSQL: the transaction is now a failed one
    assert conn._link.reset()
    assert not conn._link.in_transaction
    assert conn.query("SELECT a FROM t") == []


def test_reset_when_the_database_has_ended_the_transaction_itself(conn: Any) -> None:
    conn.begin()
    conn.rollback()
    conn._link.in_transaction = True  # what we believe may be out of date
    assert conn._link.reset()
    assert not conn._link.doubtful


def test_reset_after_what_mysql_does_not_tell(mysql_uri: str) -> None:
    """A procedure may leave a transaction open, and autocommit may be off: neither is the next borrower's."""
    probe = "SELECT @@in_transaction AS open, @@autocommit AS auto"
    with PySQLXEngineSync(mysql_uri) as conn:
        conn.raw_cmd("DROP PROCEDURE IF EXISTS opens")
        conn.raw_cmd("CREATE PROCEDURE opens() BEGIN START TRANSACTION; END")
        for sql in ("CALL opens()", "SET autocommit = 0", "SET @@session.autocommit=0"):
            conn.raw_cmd(sql)
            before = conn.query_first_as_dict(probe)
            assert before["open"] or not before["auto"]
            assert conn._link.suspect  # which has a pool look after it
            assert conn._link.check()
            assert conn._link.reset()
            assert conn.query_first_as_dict(probe) == {"open": 0, "auto": 1}
        conn.raw_cmd("DROP PROCEDURE opens")


def test_isolation_levels(conn: Any) -> None:
    provider = conn._link.provider
    known = ["Serializable"]
    if provider != "sqlite":
        known += ["ReadUncommitted", "readcommitted", "RepeatableRead"]
    for level in known:
        conn.start_transaction(level)
        assert conn._link.in_transaction
        conn.rollback()
    with pytest.raises(errors.StartTransactionError):
        conn.start_transaction("Snapshot")
    assert not conn._link.in_transaction
    conn.begin()  # had the refused one been opened after all, SQLite would complain
    conn.rollback()
    with pytest.raises(errors.IsoLevelError):
        conn.set_isolation_level("Snapshot")
    for call in (conn.start_transaction, conn.set_isolation_level):
        with pytest.raises(ValueError, match="isolation_level must be one of"):
            call("nonsense")
    conn.set_isolation_level("Serializable")


def test_errors(conn: Any) -> None:
    missing = {"sqlite": "1", "postgresql": "42P01", "mysql": "1146"}[conn._link.provider]
    for call, kind in (
        (conn.query, errors.QueryError),
        (conn.query_as_dict, errors.QueryError),
        (conn.query_first, errors.QueryError),
        (conn.query_first_as_dict, errors.QueryError),
        (conn.execute, errors.ExecuteError),
        (conn.raw_cmd, errors.RawCmdError),
    ):
        with pytest.raises(kind) as caught:
            call("SELECT * FROM nowhere")
        assert caught.value.code == missing
        assert "nowhere" in caught.value.message
        assert caught.value.error() == kind.__name__
        assert caught.value.__cause__ is None
    assert not conn._link.suspect
    assert not conn._link.doubtful
    assert conn.query_first("SELECT 1 AS a").a == 1


def test_life(conn: Any) -> None:
    assert conn.connected
    assert conn.is_healthy() is True
    assert conn.requires_isolation_first() is (conn._link.provider == "mysql")
    with pytest.raises(errors.AlreadyConnectedError):
        conn.connect()
    conn.close()
    conn.close()
    assert not conn.connected
    for call in (
        lambda: conn.query("SELECT 1"),
        lambda: conn.execute("SELECT 1"),
        lambda: conn.raw_cmd("SELECT 1"),
        conn.begin,
        conn.commit,
        conn.is_healthy,
        conn.requires_isolation_first,
        lambda: conn.set_isolation_level("Serializable"),
    ):
        with pytest.raises(errors.NotConnectedError, match="closed"):
            call()
    conn.connect()
    assert conn.query_first("SELECT 1 AS a").a == 1


def test_both_have_the_same_calls() -> None:
    def calls(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(cls, callable)
            if not name.startswith("_")
        }

    assert calls(PySQLXEngine) == calls(PySQLXEngineSync)
    expected = (
        "begin close commit connect execute is_healthy lend query query_as_dict query_first query_first_as_dict "
        "raw_cmd requires_isolation_first rollback set_isolation_level start_transaction transaction"
    )
    assert set(calls(PySQLXEngine)) == set(expected.split())


def test_never_connected(sqlite_uri: str) -> None:
    conn = PySQLXEngineSync(sqlite_uri)
    assert not conn.connected
    assert "call connect()" in repr(conn)
    with pytest.raises(errors.NotConnectedError, match=r"connect\(\)"):
        conn.query("SELECT 1")
    conn.close()


def test_close_in_a_transaction_warns_and_rolls_back(database_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with PySQLXEngineSync(database_uri) as conn:
        conn.raw_cmd("DROP TABLE IF EXISTS gone")
        conn.execute("CREATE TABLE gone (a INT)")
        with caplog.at_level(logging.WARNING, "mppool"), PySQLXEngineSync(database_uri) as other:
            other.begin()
            other.execute("INSERT INTO gone VALUES (1)")
        assert "open transaction" in caplog.text
        assert conn.query("SELECT a FROM gone") == []
        conn.execute("DROP TABLE gone")


@pytest.mark.parametrize("uri", ["", "nonsense", "http://x", "sqlite:", "postgresql://", "mariadb://x/y"])
def test_bad_uris(uri: str) -> None:
    for cls in (PySQLXEngineSync, PySQLXEngine):
        with pytest.raises(ValueError, match="invalid uri"):
            cls(uri)


def test_mysql_socket_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="socket_timeout"):
        PySQLXEngineSync("mysql://u:p@h/d?socket_timeout=1")


def test_the_password_is_in_no_text(postgres_uri: str) -> None:
    head, _, tail = postgres_uri.partition("@")
    user = head.partition("//")[2].partition(":")[0]
    uri = f"postgresql://{user}:s%C3%A9cret-word@127.0.0.1:1/{tail.partition('/')[2]}"
    conn = PySQLXEngineSync(uri)
    with pytest.raises(errors.ConnectError) as caught:
        conn.connect()
    for text in (repr(conn), str(caught.value), repr(caught.value), repr(conn._database)):
        assert "cret-word" not in text


# --- lent ------------------------------------------------------------------------------------------------


@pytest.fixture
def link(sqlite_uri: str) -> Iterator[Link]:
    one = open_link(Database.parse(sqlite_uri))
    yield one
    assert one.close()


@pytest.mark.parametrize("cls", [PySQLXEngineSync, PySQLXEngine])
def test_given_back(link: Link, cls: Any) -> None:
    face = cls.lend(link)
    assert type(face) is cls
    assert face.connected
    assert face.uri == link.database.uri
    with pytest.raises(errors.AlreadyConnectedError):
        run(face.connect())
    face._take_back()
    assert not face.connected
    with pytest.raises(errors.NotConnectedError, match="given back"):
        run(face.query("SELECT 1"))
    run(face.close())
    assert link.conn is not None
    assert not link.doubtful


def run(call: Any) -> Any:
    return asyncio.run(call) if inspect.isawaitable(call) else call


def test_a_face_taken_back_says_so(link: Link) -> None:
    face = PySQLXEngineSync.lend(link)
    face._take_back()
    for call in (lambda: face.query("SELECT 1"), face.begin, face.is_healthy):
        with pytest.raises(errors.NotConnectedError, match="given back"):
            call()


def test_closing_a_lent_one_leaves_it_to_the_pool(link: Link) -> None:
    face = PySQLXEngineSync.lend(link)
    face.close()
    assert link.doubtful
    assert link.conn is not None
    with pytest.raises(errors.NotConnectedError, match="closed"):
        face.query("SELECT 1")


def test_lending_is_light(link: Link) -> None:
    """A borrow's whole cost is a few microseconds; the face must not be the part that shows."""

    def lend_many() -> float:
        began = time.perf_counter()
        for _ in range(10_000):
            PySQLXEngineSync.lend(link)._take_back()
        return (time.perf_counter() - began) / 10_000

    assert min(lend_many() for _ in range(5)) < 3e-6


# --- doubt -----------------------------------------------------------------------------------------------

SLEEP = {"postgresql": "SELECT pg_sleep({})::text AS a", "mysql": "SELECT SLEEP({}) AS a"}


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
def test_cancelled_is_doubtful_and_closes_at_once(provider: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("postgres_uri" if provider == "postgresql" else "mysql_uri")

    async def main() -> tuple[Link, float]:
        conn = PySQLXEngine(uri)
        await conn.connect()
        link = conn._link
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(conn.query(SLEEP[provider].format(4)), 0.05)
        assert link.doubtful
        assert not conn.is_healthy()
        began = time.monotonic()
        await conn.close()
        return link, time.monotonic() - began

    link, took = asyncio.run(main())
    assert link.conn is None
    assert took < 3  # its conversation was ended; the sleep alone takes 4 s


def test_interrupted_is_doubtful(postgres_uri: str) -> None:
    with PySQLXEngineSync(postgres_uri) as conn:
        link = conn._link
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            conn.query(SLEEP["postgresql"].format(4))
        assert time.monotonic() - began < 3
        assert link.doubtful
        assert not link.check()


def test_calls_from_several_tasks_on_one_connection(postgres_uri: str) -> None:
    async def main() -> list[Any]:
        async with PySQLXEngine(postgres_uri) as conn:
            rows = await asyncio.gather(*(conn.query_first(f"SELECT {n} AS a") for n in range(20)))
            assert conn._link.busy == 0
            return [row.a for row in rows]

    assert asyncio.run(main()) == list(range(20))
