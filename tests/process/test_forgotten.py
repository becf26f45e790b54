"""Handles that nobody has any more, though nobody has stopped them: what they had does not pile up."""

from __future__ import annotations

import copy
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync
from mppool.process import registry
from mppool.shared import paths
from tests.waiting import until

LOOPS = 8


def budgets(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if name != paths.LOCK]


def agents() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "agent" in thread.name]


def query(pool: PySQLXEnginePoolSync) -> None:
    with pool.connection(10) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1


def started(uri: str) -> None:
    pool = PySQLXEnginePoolSync(uri, 1, 4)
    pool.start()
    query(pool)


def from_a_manager(uri: str) -> None:
    manager = PoolManager(uri, 4)
    manager.start()
    query(manager.pool())


def from_one_that_is_forgotten_first(uri: str) -> None:
    query(PoolManager(uri, 4).pool(min_size=1))


def both_kinds(uri: str) -> None:
    manager = PoolManager(uri, 4)
    pools: tuple[PySQLXEnginePoolSync, PySQLXEnginePool] = manager.pool(), manager.async_pool()
    query(pools[0])


def in_a_cycle(uri: str) -> None:
    pool: Any = PySQLXEnginePoolSync(uri, 1, 4)
    pool.start()
    holder = [pool]
    holder.append(holder)


@pytest.mark.parametrize("make", [started, from_a_manager, from_one_that_is_forgotten_first, both_kinds, in_a_cycle])
def test_a_loop_that_makes_and_drops_them(database_uri: str, runtime_folder: str, make: Callable[[str], None]) -> None:
    for _ in range(LOOPS):
        make(database_uri)
    gc.collect()
    until(lambda: not agents() and not budgets(runtime_folder))
    assert not registry._pools


def test_a_borrowed_connection_lives_on(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The borrow has its handle; when nobody has either any more, the connection comes home and the pool ends."""
    monkeypatch.setattr("mppool.process.agent.LONGEST_SLEEP", 0.2)
    lease = PySQLXEnginePoolSync(database_uri, 0, 1).__enter__().connection(5)
    conn = lease.__enter__()
    gc.collect()
    assert conn.query_first("SELECT 1 AS a").a == 1
    del lease
    gc.collect()
    for _ in range(3):
        assert conn.query_first("SELECT 2 AS a").a == 2
    del conn
    until(lambda: not agents())


def test_who_waits_is_served(database_uri: str) -> None:
    served = []

    def caller() -> None:
        with PySQLXEnginePoolSync(database_uri, 0, 1).__enter__().connection(10) as conn:
            gc.collect()
            served.append(conn.query_first("SELECT 1 AS a").a)

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == [1, 1, 1]
    until(lambda: not agents())


def test_a_pool_stays_while_anybody_can_come_to_it(sqlite_uri: str) -> None:
    """A manager's handles come and go; a copy of a handle is one more."""
    with PoolManager(sqlite_uri, 2) as manager:
        for _ in range(3):
            query(manager.pool())
            gc.collect()
        (pool,) = registry._pools.values()
        assert (pool.opened, pool.machine.stopped) == (1, False)
    first = PySQLXEnginePoolSync(sqlite_uri, 1, 2)
    first.start()
    twin = copy.copy(first)
    query(twin)
    (pool,) = registry._pools.values()
    del first
    gc.collect()
    query(twin)
    assert pool.opened == 1
    del twin
    gc.collect()
    until(lambda: not agents())


def test_a_named_one_stays_for_who_says_the_name_again(sqlite_uri: str) -> None:
    PySQLXEnginePoolSync(sqlite_uri, 1, 2, name="shop").start()
    gc.collect()
    (pool,) = registry._pools.values()
    again = PySQLXEnginePoolSync(sqlite_uri, 1, 2, name="shop")
    again.start()
    assert list(registry._pools.values()) == [pool]
    again.stop()
    until(lambda: not agents())
    PoolManager.attach("shop").stop()
