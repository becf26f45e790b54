"""A budget is paused: nothing is lent in any process, callers keep their places, and nobody times out."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from mppool import PoolManager, errors
from tests.crash.crew import crew, say
from tests.process.test_resizing import has
from tests.servers import Judge
from tests.test_scope import command
from tests.waiting import until


@contextmanager
def paused(manager: PoolManager, **how: float) -> Iterator[None]:
    manager.pause(wait=True, **how)  # type: ignore[arg-type]
    try:
        yield
    finally:
        manager.resume()


def test_nothing_is_lent_opened_or_checked(database_uri: str) -> None:
    checked: list[object] = []
    with PoolManager(database_uri, 3) as manager, manager.pool(min_size=1, check=checked.append) as pool:
        until(lambda: pool.stats().idle == 1)
        with paused(manager):
            opened = pool.stats().connections_num
            had = threading.Event()

            def wait() -> None:
                with pool.connection(20):
                    had.set()

            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: pool.stats().waiting == 1)
            assert not had.wait(0.1)
            assert (pool.stats().connections_num, pool.stats().idle, checked) == (opened, 1, [])
            assert pool.stats().paused
            assert manager.stats().paused
            assert "paused" in repr(pool)
            assert "paused" in repr(manager)
        assert had.wait(10)
        waiter.join()
        until(lambda: not pool.stats().paused)
        assert not manager.stats().paused
        assert checked


def test_borrowers_finish(database_uri: str) -> None:
    with PoolManager(database_uri, 2) as manager:
        pool = manager.pool()
        with ExitStack() as stack:
            connection = stack.enter_context(pool.connection())
            text = rf"is paused, and after 0.05 s processes still use connections: pid {os.getpid()} 1 "
            with pytest.raises(errors.PoolTimeoutError, match=text):
                manager.pause(wait=True, timeout=0.05)
            assert connection.query_first("SELECT 1 AS a").a == 1
            done = threading.Thread(target=lambda: manager.pause(wait=True))
            done.start()
            stack.close()
            done.join(10)
            assert not done.is_alive()
        assert (pool.stats().idle, pool.stats().in_use) == (1, 0)
        manager.resume()
        assert has(pool, 2)


def test_a_transaction_left_open_takes_its_connection_along(postgres_uri: str) -> None:
    """To roll it back would take a statement."""
    with PoolManager(postgres_uri, 1) as manager:
        pool = manager.pool()
        with pool.connection() as connection:
            connection.raw_cmd("BEGIN")
            connection.query("SELECT 1 AS a")
            manager.pause()
            until(lambda: pool.stats().paused)
        manager.pause(wait=True)
        until(lambda: pool.stats().connections_closed == 1)
        manager.resume()
        assert has(pool, 1)


def test_the_clocks_of_threads_and_tasks_stand_still(sqlite_uri: str) -> None:
    async def borrow(timeout: float) -> float:
        async with manager.async_pool().connection(timeout):
            return time.monotonic()

    with PoolManager(sqlite_uri, 1) as manager:
        pool, times = manager.pool(), []

        def thread() -> None:
            with pool.connection(0.3):
                times.append(time.monotonic())

        def tasks() -> None:
            times.append(asyncio.run(borrow(0.3)))

        with paused(manager):
            pool.stats()
            until(lambda: pool.stats().paused)
            waiters = [threading.Thread(target=thread), threading.Thread(target=tasks)]
            for each in waiters:
                each.start()
            until(lambda: pool.stats().waiting == 2)
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 0.5)
            assert times == []
        for each in waiters:
            each.join()
        assert len(times) == 2


def test_the_clock_goes_on_afterwards(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool, failed = manager.pool(), []

        def wait() -> None:
            began = time.monotonic()
            try:
                with pool.connection(0.4):
                    pass
            except errors.PoolTimeoutError:
                failed.append(time.monotonic() - began)

        with pool.connection():
            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: pool.stats().waiting == 1)
            began = time.monotonic()
            manager.pause()
            until(lambda: time.monotonic() > began + 0.5)
            assert failed == []
            manager.resume()
            waiter.join()
        assert failed[0] >= 0.8


def test_no_time_to_wait_is_none_in_a_pause(sqlite_uri: str) -> None:
    text = "0 in use, 1 idle, 0 opening, 0 waiting, paused"
    with (
        PoolManager(sqlite_uri, 1) as manager,
        manager.pool(min_size=1) as pool,
        paused(manager),
        pytest.raises(errors.PoolTimeoutError, match=text),
    ):
        pool.connection(0).__enter__()


def test_it_goes_on_by_itself(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, manager.pool(min_size=1) as pool:
        began = time.monotonic()
        manager.pause(wait=True, limit=0.3)
        with pool.connection(20), pool.connection(20):
            assert time.monotonic() - began >= 0.3
        assert not manager.stats().paused


def test_a_successor_keeps_the_pause(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()
        assert has(pool, 2)
        with paused(manager):
            before = manager.pid
            os.kill(before, signal.SIGKILL)
            until(lambda: manager.pid != before, 10)
            assert manager.stats().paused
            with pytest.raises(errors.PoolTimeoutError):
                pool.connection(0).__enter__()
        assert has(pool, 2)


def test_newcomers_are_paused_too(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, crew(manager, 1) as (puppet,), paused(manager):
        assert not puppet.ask("stats").connections_num
        assert puppet.ask("refused", 0)


def test_a_process_that_does_not_answer_is_named(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, crew(manager, 1) as (puppet,):
        puppet.ask("probe")
        os.kill(puppet.pid, signal.SIGSTOP)
        process = psutil.Process(puppet.pid)
        until(lambda: process.status() == psutil.STATUS_STOPPED)  # until then it may answer
        try:
            with pytest.raises(errors.PoolTimeoutError, match=f"pid {puppet.pid} 0 "):
                manager.pause(wait=True, timeout=0.1)
        finally:
            os.kill(puppet.pid, signal.SIGCONT)
        manager.pause(wait=True)
        manager.resume()


LATEST = (
    "SELECT max(greatest(backend_start, query_start, state_change))::text, count(*) FROM pg_stat_activity "
    "WHERE datname = %s AND pid <> pg_backend_pid()"
)


def test_no_statement_reaches_the_server_under_load(postgres_uri: str, postgres_judge: Judge) -> None:
    """By its own word: since when nothing has happened to any of its backends."""
    again = []
    with PoolManager(postgres_uri, 6) as manager, crew(manager, 3) as puppets:
        for puppet in puppets:
            puppet.ask("run", 3, 3)
        for _ in range(5):
            until(lambda: postgres_judge.count() == 6)
            with paused(manager):
                before = postgres_judge.server.run(LATEST, (postgres_judge.database,))
                assert 0 < before[0][1] <= 6, "but for those that others had been promised, what is idle stays"
                began = time.monotonic()
                until(lambda began=began: time.monotonic() > began + 0.3)  # type: ignore[misc]
                assert postgres_judge.server.run(LATEST, (postgres_judge.database,)) == before
            resumed = time.monotonic()
            until(lambda: sum(member.in_use for member in manager.stats().members) >= 5)
            again.append(time.monotonic() - resumed)
        assert [puppet.ask("rest")["failures"] for puppet in puppets] == [[]] * 3
        assert sum(puppet.ask("stats").requests_timeouts for puppet in puppets) == 0
    median = sorted(again)[2]
    say(f"\nresumed: in full use again after {median * 1e3:.1f} ms (median of 5), {max(again) * 1e3:.1f} at most")
    assert median < 0.05


def test_bad_times(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        for how in ({"limit": 0}, {"limit": "soon"}, {"timeout": -1}):
            with pytest.raises((TypeError, ValueError)):
                manager.pause(**how)  # type: ignore[arg-type]
        assert not manager.stats().paused


def test_the_commands(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, "shop") as manager, manager.pool(min_size=1) as pool:
        assert command("pause", "shop", "--wait").returncode == 0
        assert pool.stats().paused
        assert command("resume", "shop").returncode == 0
        until(lambda: not pool.stats().paused)
        assert not manager.stats().paused
    for verb in ("pause", "resume"):
        assert command(verb, "no-such-budget").returncode == 1
