"""A budget gets another size while it runs, from any process."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from contextlib import ExitStack

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.shared import ledger as L
from tests.crash.crew import Books, crew
from tests.test_scope import command
from tests.waiting import until

NAME = "shop"


def has(pool: PySQLXEnginePoolSync, count: int) -> bool:
    """Whether this process can have so many connections at once, and no more."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(pool.connection(20))
        with pytest.raises(errors.PoolTimeoutError, match=f"of {count} permits"):
            pool.connection(0.05).__enter__()
    return True


def assigned(manager: PoolManager) -> int:
    return sum(member.credit for member in manager.stats().members)


def test_more_and_fewer(database_uri: str) -> None:
    with PoolManager(database_uri, 2) as manager:
        pool = manager.pool()
        for size in (2, 5, 1, 3):
            manager.resize(size)
            until(lambda: manager.stats().free >= 0)  # else what is idle here may still be lent
            assert has(pool, size)
            assert (manager.max_size, pool.max_size) == (size, size)
            assert (pool.stats().pool_max, manager.stats().max_size) == (size, size)
        assert "max_size=3" in repr(pool)
        assert "max_size=3" in repr(manager)


def test_waiters_are_served_at_once_when_there_are_more(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool, had = manager.pool(), threading.Event()

        def wait() -> None:
            with pool.connection(20):
                had.set()

        with pool.connection():
            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: pool.stats().waiting == 1)
            manager.resize(2)
            assert had.wait(10)
            waiter.join()


def test_borrowers_keep_what_they_have(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3) as manager:
        pool = manager.pool()
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(pool.connection())
            manager.resize(1)
            until(lambda: manager.stats().free == -2)
            assert pool.stats().in_use == 3
        until(lambda: assigned(manager) == 1)
        assert has(pool, 1)


def test_it_is_fair_over_processes(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 8) as manager, crew(manager, 2) as (one, other):
        one.ask("hold", 5)
        other.ask("hold", 3)
        manager.resize(4)
        until(lambda: manager.stats().free == -4)
        books = Books(manager.name)
        until(lambda: list(books.column(L.LIMIT).values()) == [2, 2])
        books.close()
        assert (one.ask("release"), other.ask("release")) == (5, 3)
        until(lambda: manager.stats().free == 0)


def test_handles_that_were_made_before_take_the_new_size(sqlite_uri: str) -> None:
    """In whichever process they arrive."""
    inherited = PySQLXEnginePoolSync(sqlite_uri, 1, 2, name=NAME)
    pickled = pickle.dumps(PoolManager(sqlite_uri, 2, NAME))
    with PoolManager(sqlite_uri, 2, NAME) as manager:
        with crew(manager, 1) as (puppet,):
            puppet.ask("probe")
            manager.resize(4)
            assert puppet.ask("hold", 4)
            puppet.ask("release")
        with inherited:
            assert has(inherited, 4)
        arrived = pickle.loads(pickled).pool()
        assert has(arrived, 4)
        arrived.stop()
        assert PoolManager.attach(NAME).max_size == 4


def test_a_newcomer_with_the_old_number_is_told(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, NAME) as manager, manager.pool() as pool:
        manager.resize(5)
        text = "it was resized from 2 to 5 while it ran, and max_size is 2 here: give max_size=5, or max_size=None"
        with pytest.raises(errors.BudgetMismatchError, match=text):
            PoolManager(sqlite_uri, 2, NAME).start()
        late = PySQLXEnginePoolSync(sqlite_uri, 0, 2, name=NAME)
        with pytest.raises(errors.BudgetMismatchError, match=text):
            late.start()
        assert has(pool, 5)
        taking = PySQLXEnginePoolSync(sqlite_uri, 0, None, name=NAME)
        assert taking.max_size == 0, "not known yet"
        with taking:
            assert taking.max_size == 5
        with PySQLXEnginePoolSync(sqlite_uri, 5, 5, name=NAME) as new:
            assert new.max_size == 5


def test_the_size_of_a_budget_that_does_not_run_cannot_be_taken(sqlite_uri: str, runtime_folder: str) -> None:
    with pytest.raises(ValueError, match="max_size=None takes the size of a running budget: say which one"):
        PySQLXEnginePoolSync(sqlite_uri, 0, None)
    for start in (
        PoolManager(sqlite_uri, None, NAME).start,
        PySQLXEnginePoolSync(sqlite_uri, 0, None, name=NAME).start,
    ):
        with pytest.raises(errors.ManagerUnavailableError, match=r"max_size=None takes .*, and none is running"):
            start()
    assert NAME not in os.listdir(runtime_folder)


@pytest.mark.parametrize("size", [0, 10_001, 2.0, True, None])
def test_what_is_no_size(sqlite_uri: str, size: object) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        with pytest.raises((TypeError, ValueError), match="max_size must be"):
            manager.resize(size)  # type: ignore[arg-type]
        assert manager.max_size == 2


def test_a_budget_that_does_not_run_cannot_be_resized(sqlite_uri: str) -> None:
    with pytest.raises(errors.ManagerUnavailableError, match="is not running"):
        PoolManager(sqlite_uri, 2, NAME).resize(3)


def test_a_size_that_no_budget_has_is_a_broken_protocol(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        for size in (0, 1 << 40):
            with pytest.raises(errors.ManagerUnavailableError):
                manager._request({"do": "resize", "max_size": size})
        assert manager.max_size == 2


@pytest.mark.parametrize("with_members", [True, False], ids=["members", "an owner alone"])
def test_a_successor_keeps_the_size(sqlite_uri: str, with_members: bool) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()
        if with_members:
            assert has(pool, 2)
        manager.resize(4)
        before = manager.pid
        os.kill(before, signal.SIGKILL)
        until(lambda: manager.pid != before, 10)
        assert manager.max_size == 4
        assert has(pool, 4)


def test_overdrawn_at_the_managers_death(sqlite_uri: str) -> None:
    """The successor knows of more permits than there are, and takes them back."""
    with PoolManager(sqlite_uri, 6) as manager, crew(manager, 2) as (one, other):
        one.ask("hold", 4)
        other.ask("hold", 2)
        manager.resize(2)
        until(lambda: manager.stats().free == -4)
        before = manager.pid
        os.kill(before, signal.SIGKILL)
        until(lambda: manager.pid != before, 10)
        until(lambda: not one.ask("stats").manager_lost and not other.ask("stats").manager_lost, 10)
        assert manager.stats().free == -4
        one.ask("release")
        other.ask("release")
        until(lambda: manager.stats().free == 0)


def test_what_was_resized_long_ago_and_is_gone_has_no_say(sqlite_uri: str) -> None:
    """Everything was killed; the same program starts again with another number."""
    manager = PoolManager(sqlite_uri, 2, NAME)
    manager.start()
    manager.resize(4)
    os.kill(manager.pid, signal.SIGKILL)
    manager._disown()
    manager._ledger = None
    with PoolManager(sqlite_uri, 3, NAME) as again:
        assert again.max_size == 3
        assert again._read().header.resized == 0


def test_keeping_more_warm_than_there_may_be(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 5) as manager, manager.pool(min_size=4) as pool:
        until(lambda: pool.stats().idle == 4)
        manager.resize(2)
        until(lambda: pool.stats().idle == 2)
        assert has(pool, 2)
        manager.resize(6)
        assert has(pool, 6)


def test_the_command(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, NAME) as manager:
        assert command("resize", NAME, "7").returncode == 0
        assert manager.max_size == 7
        bad = command("resize", NAME, "0")
        assert (bad.returncode, "not in the range" in bad.stderr) == (2, True)
    assert command("resize", "no-such-budget", "7").returncode == 1
