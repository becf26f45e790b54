"""Transaction blocks: committed, rolled back, nested, ended by hand, aborted behind one's back."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection.sync_connection import PySQLXEngineSync


def add(conn: Any, a: int) -> None:
    assert conn.execute("INSERT INTO t VALUES (:a, 'x')", {"a": a}) == 1


def kept(conn: Any) -> list[int]:
    return [row["a"] for row in conn.query_as_dict("SELECT a FROM t ORDER BY a")]


class Fault(Exception):
    pass


def test_the_end_commits_and_an_exception_rolls_back(conn: Any) -> None:
    with conn.transaction():
        assert conn._link.in_transaction
        add(conn, 1)
    assert not conn._link.in_transaction
    with pytest.raises(Fault), conn.transaction():
        add(conn, 2)
        raise Fault
    assert not conn._link.in_transaction
    assert kept(conn) == [1]


def test_nested_ones_are_savepoints(conn: Any) -> None:
    with conn.transaction():
        add(conn, 1)
        with pytest.raises(Fault), conn.transaction():
            add(conn, 2)
            with conn.transaction():
                add(conn, 3)
            raise Fault
        with conn.transaction():
            add(conn, 4)
            with pytest.raises(Fault), conn.transaction():
                add(conn, 5)
                raise Fault
            add(conn, 6)
        assert conn._link.in_transaction
    assert kept(conn) == [1, 4, 6]


def test_a_failed_statement_in_a_savepoint_is_undone_with_it(conn: Any) -> None:
    """On PostgreSQL it is the way to go on after an error."""
    with conn.transaction():
        add(conn, 1)
        with pytest.raises(errors.ExecuteError), conn.transaction():
            add(conn, 1)
        add(conn, 2)
    assert kept(conn) == [1, 2]


def test_inside_a_transaction_begun_by_hand(conn: Any) -> None:
    conn.begin()
    with conn.transaction():
        add(conn, 1)
    assert conn._link.in_transaction
    conn.rollback()
    assert kept(conn) == []


def test_isolation_level(conn: Any) -> None:
    with conn.transaction("Serializable"):
        add(conn, 1)
        with pytest.raises(ValueError, match="savepoint"), conn.transaction("Serializable"):
            pass
        add(conn, 2)
    with pytest.raises(errors.StartTransactionError), conn.transaction("Snapshot"):
        pass
    with pytest.raises(ValueError, match="isolation_level must be one of"), conn.transaction("nonsense"):
        pass
    assert not conn._link.in_transaction
    assert kept(conn) == [1, 2]


def test_ended_inside(conn: Any) -> None:
    with pytest.raises(RuntimeError, match="ended inside it"), conn.transaction():
        add(conn, 1)
        conn.commit()
    with pytest.raises(Fault), conn.transaction():
        add(conn, 2)
        conn.rollback()
        raise Fault
    assert kept(conn) == [1]


def test_a_block_is_entered_once(conn: Any) -> None:
    block = conn.transaction()
    with block:
        pass
    with pytest.raises(RuntimeError, match="once"), block:
        pass
    assert not conn._link.in_transaction


def test_closed_inside(conn: Any) -> None:
    with pytest.raises(errors.NotConnectedError), conn.transaction():
        add(conn, 1)
        conn.close()
    conn.connect()
    assert kept(conn) == []


@pytest.mark.parametrize("by_block", [True, False])
def test_a_caught_failure_is_not_committed_in_silence(conn: Any, by_block: bool) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with success, and rolls back."""

    def work() -> None:
        add(conn, 1)
        with pytest.raises(errors.ExecuteError):
            add(conn, 1)

    def whole() -> None:
        if by_block:
            with conn.transaction():
                work()
        else:
            conn.begin()
            work()
            conn.commit()

    if conn._link.provider == "postgresql":
        with pytest.raises(errors.RawCmdError) as caught:
            whole()
        assert caught.value.code == "25P02"
        assert kept(conn) == []
    else:
        whole()
        assert kept(conn) == [1]
    assert not conn._link.in_transaction
    with conn.transaction():
        add(conn, 2)
    assert 2 in kept(conn)


def test_a_broken_connection_shows_the_blocks_own_error(postgres_uri: str) -> None:
    with PySQLXEngineSync(postgres_uri) as conn, PySQLXEngineSync(postgres_uri) as other:
        pid = conn.query_first("SELECT pg_backend_pid() AS a").a
        with pytest.raises(Fault), conn.transaction():
            assert other.query_first(f"SELECT pg_terminate_backend({pid}, 5000) AS a").a
            raise Fault
        assert conn._link.doubtful


# --- SQLite's write lock --------------------------------------------------------------------------------------


@pytest.mark.parametrize("conn", ["sync", "async"], indirect=True)
@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_immediate_takes_the_write_lock(conn: Any, sqlite_uri: str) -> None:
    with PySQLXEngineSync(sqlite_uri) as other:
        other.raw_cmd("PRAGMA busy_timeout = 0")
        with conn.transaction(immediate=True):
            with pytest.raises(errors.StartTransactionError) as caught:
                other.begin(immediate=True)
            assert caught.value.code == "5"
            assert not other._link.in_transaction
            add(conn, 1)
        other.start_transaction(immediate=True)
        other.rollback()


def test_immediate_means_nothing_elsewhere(postgres_uri: str, mysql_uri: str) -> None:
    for uri in (postgres_uri, mysql_uri):
        with PySQLXEngineSync(uri) as conn, conn.transaction(immediate=True):
            assert conn.query_first("SELECT 1 AS a").a == 1


def test_commit_of_a_locked_file_leaves_no_transaction(sqlite_uri: str) -> None:
    """A reader may keep a writer from committing (rollback journal): SQLite's transaction stays open then."""
    with PySQLXEngineSync(sqlite_uri) as writer, PySQLXEngineSync(sqlite_uri) as reader:
        writer.raw_cmd("CREATE TABLE t (a INT)")
        writer.raw_cmd("PRAGMA busy_timeout = 0")
        with pytest.raises(errors.RawCmdError) as caught, writer.transaction(immediate=True):
            writer.execute("INSERT INTO t VALUES (1)")
            reader.begin()
            reader.query("SELECT * FROM t")
        assert caught.value.code == "5"
        assert not writer._link.in_transaction
        reader.rollback()
        with writer.transaction():
            writer.execute("INSERT INTO t VALUES (2)")
        assert [row.a for row in reader.query("SELECT a FROM t")] == [2]


def test_waiting_writers_take_turns(sqlite_uri: str) -> None:
    """The one that holds the lock can always commit, however many wait for it."""
    with PySQLXEngineSync(sqlite_uri) as conn:
        conn.raw_cmd("CREATE TABLE t (a INT)")
    ready = threading.Barrier(9)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with PySQLXEngineSync(sqlite_uri) as conn:
                ready.wait()
                for a in range(10):
                    with conn.transaction(immediate=True):
                        conn.execute("INSERT INTO t VALUES (:a)", {"a": a})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    assert failures == []
    assert time.monotonic() - began < 5.0, "as long as SQLite's patience: somebody was starved"
    with PySQLXEngineSync(sqlite_uri) as conn:
        assert conn.query_first("SELECT count(*) AS n FROM t").n == 80
