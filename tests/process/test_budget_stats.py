"""A budget's sums are those of all its processes, also of those that have ended, whoever was killed in between."""

from __future__ import annotations

import os
import signal

from mppool import PoolManager, PySQLXEnginePoolSync
from tests.process import children
from tests.waiting import until


def borrow(pool: PySQLXEnginePoolSync, times: int) -> None:
    for _ in range(times):
        with pool.connection(10):
            pass


def works(pool: PySQLXEnginePoolSync, times: int) -> int:
    """The pid of a child that borrows so many times, and ends in order."""

    def child() -> None:
        borrow(pool, times)
        pool.stop()

    return children.forked(child)


def stops_first(pool: PySQLXEnginePoolSync) -> int:
    """The pid of a child that gives a connection back after it has stopped its pool."""

    def child() -> None:
        borrow(pool, 1)
        lease = pool.connection()
        lease.__enter__()
        agent = pool._local.agent  # type: ignore[union-attr]
        pool.stop()
        lease.__exit__()
        agent.join(20)

    return children.forked(child)


def stays(pool: PySQLXEnginePoolSync, times: int) -> int:
    """The pid of a child that has borrowed so many times, and stays until it is killed."""
    reader, writer = os.pipe()

    def child() -> None:
        borrow(pool, times)
        assert pool.stats().requests_num == times  # and what it has counted so far is published
        os.write(writer, b"!")
        signal.pause()

    pid = children.forked(child)
    assert os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def test_the_sums_are_exact_whoever_ends_and_however(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 8) as manager:
        pool = manager.pool()
        pool.start()
        ended = [*(works(pool, times) for times in (30, 1, 200)), stops_first(pool)]
        killed = stays(pool, 40)
        assert [children.exit_code(pid) for pid in ended] == [0, 0, 0, 0]
        os.kill(killed, signal.SIGKILL)
        os.waitpid(killed, 0)
        borrow(pool, 5)
        own = pool.stats()
        assert own.requests_num == 5
        until(lambda: [member.pid for member in manager.stats().members] == [os.getpid()])
        stats = manager.stats()
        assert stats.requests_num == 30 + 1 + 200 + 2 + 40 + 5
        assert stats.usage.count == stats.wait.count == stats.requests_num
        assert stats.requests_errors == stats.leaks == 0
        assert stats.members[0].counters() == own.counters()
        assert PoolManager.attach(manager.name).stats().counters() == stats.counters()

        before = manager.pid
        os.kill(before, signal.SIGKILL)
        until(lambda: manager.pid != before and not pool.stats().manager_lost)
        after = manager.stats()
        assert after.counters() == stats.counters()
        assert (stats.successions, after.successions) == (0, 1)
        borrow(pool, 2)
        assert pool.stats().requests_num == 7
        assert manager.stats().requests_num == stats.requests_num + 2
        pool.stop()


def test_the_agent_publishes_what_callers_leave(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2) as pool:
        manager = PoolManager.attach(pool.name)
        borrow(pool, 3)

        def told() -> bool:
            pool._local.agent.wake()  # type: ignore[union-attr]  # as anything wakes it, within ten seconds
            return manager.stats().requests_num == 3

        until(told)


def test_the_budgets_own_numbers(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 4) as manager:
        pool = manager.pool()
        with pool.connection(), pool.connection():
            stats = manager.stats()
            assert (stats.name, stats.max_size, stats.manager_pid) == (manager.name, 4, manager.pid)
            assert (stats.grants, stats.in_use, stats.open, stats.waiting, stats.orphans) == (2, 2, 2, 0, 0)
            assert (stats.recalls, stats.moves, stats.successions) == (0, 0, 0)
            assert "sqlite" in stats.database
            (member,) = stats.members
            assert (member.share, member.waiting_for, member.oldest_use, member.oldest_place) == (2.0, 0.0, 0.0, "")
        pool.stop()


def test_a_connection_that_goes_to_another_process_is_a_move(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool = manager.pool()
        borrow(pool, 1)
        assert children.exit_code(works(pool, 1)) == 0
        until(lambda: len(manager.stats().members) == 1)
        pool.stats()
        stats = manager.stats()
        assert stats.moves == 1
        assert stats.grants >= 2
        pool.stop()
