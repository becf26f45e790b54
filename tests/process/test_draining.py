"""Every connection is replaced by a new one, and nobody notices but the database."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import pytest

from mppool import PoolManager, errors
from tests.crash.crew import crew
from tests.servers import Judge
from tests.test_scope import command
from tests.waiting import until


def backend(connection: object) -> object:
    """The server's name for a connection; the link where there is no server."""
    return connection._link


def test_idle_ones_are_closed_and_kept_warm_anew(database_uri: str) -> None:
    with PoolManager(database_uri, 4) as manager, manager.pool(min_size=2) as pool:
        until(lambda: pool.stats().idle == 2)
        manager.drain()
        until(lambda: (pool.stats().connections_closed, pool.stats().connections_num, pool.stats().idle) == (2, 4, 2))


def test_borrowed_ones_finish(database_uri: str) -> None:
    with PoolManager(database_uri, 2) as manager:
        pool = manager.pool()
        with ExitStack() as stack:
            connections = [stack.enter_context(pool.connection()) for _ in range(2)]
            before = {backend(connection) for connection in connections}
            manager.drain()
            with pytest.raises(errors.PoolTimeoutError):
                pool.connection(0.05).__enter__()
            assert [connection.query_first("SELECT 1 AS a").a for connection in connections] == [1, 1]
            assert pool.stats().connections_closed == 0
        with pool.connection() as one, pool.connection() as other:
            assert not {backend(one), backend(other)} & before
        assert (pool.stats().connections_closed, pool.stats().connections_num) == (2, 4)


def test_processes_that_have_lost_their_manager_hear_of_it(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, crew(manager, 1) as (puppet,):
        puppet.ask("probe")
        puppet.ask("hold", 1)
        puppet.ask("release")
        before = manager.pid
        os.kill(before, signal.SIGKILL)
        closed = puppet.ask("stats").connections_closed
        manager.drain()
        assert manager.pid != before
        until(lambda: puppet.ask("stats").connections_closed == closed + 1, 10)


def test_under_load(postgres_uri: str, postgres_judge: Judge) -> None:
    with PoolManager(postgres_uri, 6) as manager, crew(manager, 3) as puppets:
        for puppet in puppets:
            puppet.ask("run", 3, 3)
        until(lambda: postgres_judge.count() == 6)
        for _ in range(5):
            before = set(postgres_judge.list())
            manager.drain()
            until(lambda before=before: not before & set(postgres_judge.list()), 10)  # type: ignore[misc]
        assert [puppet.ask("rest")["failures"] for puppet in puppets] == [[]] * 3
        assert sum(puppet.ask("stats").connections_refused for puppet in puppets) == 0


def test_what_was_opened_since_is_kept(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, manager.pool() as pool:
        manager.drain()
        with pool.connection() as connection:
            new = backend(connection)
        with pool.connection() as connection:
            assert backend(connection) is new


def test_the_command(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, "shop") as manager, manager.pool(min_size=1) as pool:
        until(lambda: pool.stats().idle == 1)
        assert command("drain", "shop").returncode == 0
        until(lambda: pool.stats().connections_num == 2)
    assert command("drain", "no-such-budget").returncode == 1
