"""Many writers on one SQLite file, in threads and in processes: nobody is told "database is locked", no row is lost,
and whoever waits for the lock does not keep its holder, or anybody else, from going on.

The set-up is the recommended one: ``BEGIN IMMEDIATE``, and a `configure` hook for WAL. MPPOOL_TEST_REPEAT is the
number of transactions; 20,000 is the thorough run.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync
from tests.live.crowd import ends, together
from tests.waiting import forked, until

TRANSACTIONS = int(os.environ.get("MPPOOL_TEST_REPEAT", "1500"))
PATIENCE = 60.0 + TRANSACTIONS / 50
WAITERS = 40


def configure(conn: Any) -> None:
    conn.query("PRAGMA journal_mode = WAL")
    conn.query("PRAGMA synchronous = NORMAL")
    conn.query("PRAGMA busy_timeout = 30000")


def write(pool: PySQLXEnginePoolSync, writer: int, turns: int) -> None:
    """Each row is numbered by what was read in the same transaction: a lost update would be a number twice."""
    for turn in range(turns):
        with pool.connection(PATIENCE) as conn, conn.transaction(immediate=True):
            last = conn.query_first("SELECT COALESCE(MAX(number), 0) AS n FROM written").n
            row = {"number": last + 1, "writer": writer, "turn": turn}
            assert conn.execute("INSERT INTO written VALUES (:number, :writer, :turn)", row) == 1


def write_in_threads(pool: PySQLXEnginePoolSync, writers: range, turns: int) -> None:
    together([functools.partial(write, pool, writer, turns) for writer in writers], PATIENCE)


@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (4, 4)], ids=["8 threads", "4 processes x 4 threads"])
def test_no_writer_is_refused_and_every_row_is_there(sqlite_uri: str, processes: int, threads: int) -> None:
    turns = TRANSACTIONS // (processes * threads)
    with PoolManager(sqlite_uri, 16) as manager:
        pool = manager.pool(configure=configure)
        with pool.connection() as conn:
            conn.raw_cmd("CREATE TABLE written (number INTEGER PRIMARY KEY, writer INTEGER, turn INTEGER)")
        began = time.monotonic()
        with ExitStack() as children:
            crews = [range(first, first + threads) for first in range(0, processes * threads, threads)]
            others = [children.enter_context(forked(write_in_threads, pool, crew, turns)) for crew in crews[1:]]
            write_in_threads(pool, crews[0], turns)
            for child in others:
                ends(child, PATIENCE)
        took = time.monotonic() - began
        with pool.connection() as conn:
            rows = conn.query_as_dict("SELECT * FROM written ORDER BY number")
    print(f"{processes} x {threads}: {len(rows)} transactions in {took:.1f} s")
    assert [row["number"] for row in rows] == list(range(1, processes * threads * turns + 1))
    assert {(row["writer"], row["turn"]) for row in rows} == {
        (writer, turn) for writer in range(processes * threads) for turn in range(turns)
    }


def test_who_waits_for_the_lock_keeps_nobody_else_waiting(sqlite_uri: str, postgres_uri: str) -> None:
    """The driver's SQLite works on its runtime's threads, where its PostgreSQL is driven too."""
    with PoolManager(sqlite_uri, WAITERS + 2) as manager, PoolManager(postgres_uri, 1) as other:
        pool, postgres = manager.pool(configure=configure), other.pool()
        beginning: list[Any] = []

        def waiter(number: int) -> None:
            with pool.connection() as conn:
                beginning.append(conn._link)
                with conn.transaction(immediate=True):
                    conn.execute("INSERT INTO written VALUES (:number)", {"number": number})

        with pool.connection() as holder:
            holder.raw_cmd("CREATE TABLE written (number INTEGER PRIMARY KEY)")
            holder.begin(immediate=True)
            holder.execute("INSERT INTO written VALUES (0)")
            callers = [functools.partial(waiter, number) for number in range(1, WAITERS + 1)]
            crowd = threading.Thread(target=together, args=(callers, PATIENCE), daemon=True)
            crowd.start()
            until(lambda: len(beginning) == WAITERS and all(link.busy for link in beginning), 20)
            with pool.connection() as reader, postgres.connection() as elsewhere:
                began = time.monotonic()
                assert reader.query_first("SELECT COUNT(*) AS n FROM written").n == 0
                assert elsewhere.query_first("SELECT 1 AS a").a == 1
                read = time.monotonic()
                assert all(link.busy for link in beginning), "they still wait"
                holder.commit()
            committed = time.monotonic()
        crowd.join(PATIENCE)
        assert not crowd.is_alive()
        all_done = time.monotonic()
        with pool.connection() as conn:
            assert conn.query_first("SELECT COUNT(*) AS n FROM written").n == WAITERS + 1
    print(
        f"{WAITERS} waiters: reads {1000 * (read - began):.1f} ms, commit {1000 * (committed - read):.1f} ms, "
        f"all have written {1000 * (all_done - committed):.0f} ms later"
    )
    assert committed - began < 10, "SQLite's patience is 30 s: whoever was kept waiting waited longer"
