"""Some permits are kept for callers with priority. They are a budget of their own; together there are never more."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from tests.process.test_resizing import assigned, has
from tests.servers import Judge
from tests.waiting import Whistle, forked, until


def hold_all(manager: PoolManager, count: int, ready: Whistle, over: Whistle) -> None:
    with ExitStack() as stack:
        pool = manager.pool()
        for _ in range(count):
            stack.enter_context(pool.connection(20))
        ready.blow()
        over.wait()


def test_callers_with_priority_do_not_wait_for_others(postgres_uri: str, postgres_judge: Judge) -> None:
    with postgres_judge.watch() as watch, PoolManager(postgres_uri, 5, reserve=2) as manager:  # noqa: SIM117
        with Whistle() as ready, Whistle() as over, forked(hold_all, manager, 3, ready, over):
            ready.wait()
            pool = manager.pool()
            with pytest.raises(errors.PoolTimeoutError), pool.connection(0.2):
                pass
            assert pool.check(20, priority=True) > 0
            with pool.connection(20, priority=True) as one, pool.connection(20, priority=True) as two:
                assert one.query_first("SELECT 1 AS a").a == two.query_first("SELECT 1 AS a").a == 1
                assert postgres_judge.count() == 5
                with pytest.raises(errors.PoolTimeoutError, match=r"\.reserve'"), pool.connection(0.1, priority=True):
                    pass
                assert manager.stats().free == 0
            with pytest.raises(errors.PoolTimeoutError), pool.connection(0.2):
                pass  # what came back to the reserve stays there
            assert (pool.stats().requests_num, pool.stats().requests_errors) == (2, 2)
            over.blow()
    assert watch.peak == 5


def test_tasks_have_it_too(sqlite_uri: str) -> None:
    async def scenario(manager: PoolManager) -> None:
        pool = manager.async_pool()
        async with pool.connection():
            with pytest.raises(errors.PoolTimeoutError):
                async with pool.connection(0.05):
                    pass
            assert await pool.check(20, priority=True) > 0
            async with pool.connection(20, priority=True) as connection:
                assert (await connection.query_first("SELECT 1 AS a")).a == 1
        await pool.stop()

    with PoolManager(sqlite_uri, 2, reserve=1) as manager:
        asyncio.run(scenario(manager))


def test_what_is_idle_here_is_taken_first(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, reserve=1) as manager:
        pool = manager.pool()
        pool.check(20)
        pool.check(20, priority=True)
        assert pool.stats().requests_num == 2
        with pytest.raises(errors.ManagerUnavailableError):
            PoolManager.attach(f"{manager.name}.reserve")


def use(pool: PySQLXEnginePoolSync) -> None:
    with pool.connection(20), pool.connection(20, priority=True) as connection:
        connection.query("SELECT 1 AS a")


def test_a_pool_of_its_own_has_one_in_a_child_and_pickled(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2, reserve=1) as pool:
        assert (pool.max_size, pool.reserve) == (2, 1)
        use(pool)
        until(lambda: pool.stats().in_use == 0)
        with forked(use, pool) as child:
            child.join()
            assert child.status == 0
        use(pickle.loads(pickle.dumps(pool)))
        pool.stop()
        with pytest.raises(errors.PoolClosedError):
            use(pool)
        pool.start()
        use(pool)


def test_it_is_paused_too(database_uri: str) -> None:
    """Also if it is first used in the pause: its manager is launched then."""
    with PoolManager(database_uri, 2, reserve=1) as manager:
        pool, had = manager.pool(), threading.Event()

        def borrow() -> None:
            with pool.connection(20, priority=True):
                had.set()

        for used in (False, True):
            manager.pause(wait=True)
            had.clear()
            thread = threading.Thread(target=borrow)
            thread.start()
            until(lambda: _waits(manager))
            assert not had.is_set(), f"used before: {used}"
            manager.resume()
            thread.join(20)
            assert had.is_set()


def _waits(manager: PoolManager) -> bool:
    """Whether a caller waits in the reserve."""
    try:
        return PoolManager.attach(f"{manager.name}.reserve").stats().waiting == 1
    except errors.ManagerUnavailableError:
        return False


def test_a_pause_waits_for_what_the_reserve_has_lent(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, reserve=1) as manager:
        pool = manager.pool()
        with pool.connection(20), pool.connection(20, priority=True):
            pass
        pool.check(20)  # so that nothing is at hand
        with ExitStack() as stack:
            busy = stack.enter_context(ExitStack())
            busy.enter_context(pool.connection(20))
            stack.enter_context(pool.connection(20, priority=True))
            busy.close()
            with pytest.raises(errors.PoolTimeoutError, match="processes still use connections"):
                manager.pause(wait=True, timeout=0.1)
        manager.pause(wait=True)
        manager.resume()


def test_a_resize_leaves_it_as_it_is(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, reserve=1) as manager:
        pool = manager.pool()
        assert has(pool, 2)
        manager.resize(5)
        assert has(pool, 4)
        with pytest.raises(ValueError, match=r"more than the reserve .*\(1\)"):
            manager.resize(1)
        manager.resize(2)
        until(lambda: assigned(manager) == 1)
        assert has(pool, 1)
        assert (manager.max_size, manager.reserve, manager.stats().reserve) == (2, 1, 1)


def test_a_drain_replaces_its_connections(postgres_uri: str, postgres_judge: Judge) -> None:
    with PoolManager(postgres_uri, 2, reserve=1) as manager:
        pool = manager.pool()
        with pool.connection(20), pool.connection(20, priority=True):
            before = set(postgres_judge.list())
        manager.drain()
        until(lambda: not before & set(postgres_judge.list()))


def test_all_processes_mean_the_same(sqlite_uri: str) -> None:
    name = "of-one-mind"
    with PoolManager(sqlite_uri, 3, name, reserve=1) as manager:
        with pytest.raises(errors.BudgetMismatchError, match="reserve is 1 there and 2 here"):
            PoolManager(sqlite_uri, 3, name, reserve=2).start()
        with pytest.raises(errors.BudgetMismatchError, match="reserve is 1 there and 2 here"):
            PySQLXEnginePoolSync(sqlite_uri, 0, 3, name=name, reserve=2).start()
        with PySQLXEnginePoolSync(sqlite_uri, 0, 3, name=name) as pool:
            assert has(pool, 2)
        use(PoolManager.attach(name).pool())
        with PoolManager(sqlite_uri, None, name) as other:
            use(other.pool())
            assert other.reserve == manager.reserve == 1


@pytest.mark.parametrize(
    ("reserve", "error"),
    [(-1, ValueError), (3, ValueError), (True, TypeError), (1.0, TypeError), (None, TypeError)],
)
def test_bad_reserves_are_refused(reserve: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="reserve must be"):
        PoolManager("sqlite:any.db", 3, reserve=reserve)


def test_the_warm_connections_must_fit_beside_it() -> None:
    with pytest.raises(
        ValueError, match=r"min_size \(3\) must not be greater than max_size \(3\) less its reserve \(1\)"
    ):
        PoolManager("sqlite:any.db", 3, reserve=1).pool(min_size=3)


def test_priority_needs_a_reserve() -> None:
    with pytest.raises(ValueError, match="has no reserve for priority=True"):
        PoolManager("sqlite:any.db", 3).pool().connection(priority=True)


def test_a_killed_manager_of_the_reserve_is_succeeded(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, reserve=1) as manager:
        pool, reserve = manager.pool(), manager._reserve
        assert reserve is not None
        with pool.connection(20), pool.connection(20, priority=True):
            os.kill(reserve.pid, signal.SIGKILL)
            began = time.monotonic()
            manager.pause()
            manager.resume()
            assert time.monotonic() - began < 20
        use(pool)
