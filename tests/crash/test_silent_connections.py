"""Connections that are cut off silently, as a firewall does that forgets them: neither side hears of it, the server
keeps them and counts them, and new ones pass. Their permits serve again within seconds, and the server never has more
connections than there are permits; but where every one of them was cut off, one more for a moment, to ask over it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import PoolManager, errors
from tests.beats import Clock
from tests.crash.crew import crew, say
from tests.proxy import Proxy
from tests.servers import Judge
from tests.waiting import until

SIZE = 4
TIMEOUT = 0.5  # seconds that a caller waits for an answer
BACK = 12.0  # of the clock's seconds; on an idle machine it takes 2 to 6
PATIENCE = 40.0  # seconds for a connection; how fast it is, the clock says

on_servers = pytest.mark.parametrize("database_uri", ["postgresql", "mysql"], indirect=True)


@pytest.fixture
def proxy(database_uri: str) -> Iterator[Proxy]:
    with Proxy(database_uri) as made:
        yield made
        made.cut()


def ask_all(pool: Any, count: int, seconds: float = PATIENCE) -> None:
    """So many callers borrow and ask, over and over and each for a moment, until all of them hold a connection that has
    answered at once."""
    answered, done, failures = set(), threading.Event(), []

    def caller(number: int) -> None:
        while not done.is_set():
            try:
                with pool.connection(seconds) as conn:
                    conn.query_first("SELECT 7 AS a", timeout=TIMEOUT)
                    answered.add(number)
                    if len(answered) == count:
                        done.set()
                    done.wait(0.05)
                answered.discard(number)
            except errors.CallTimeoutError:
                pass
            except BaseException as error:
                failures.append(error)
                done.set()

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def fill(pool: Any, count: int) -> None:
    """So many connections, idle."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(pool.connection(5))


@on_servers
def test_some_are_cut_off(database_uri: str, judge: Judge, proxy: Proxy, clock: Clock) -> None:
    with PoolManager(proxy.uri, SIZE) as manager, judge.watch() as seen:
        pool = manager.pool()
        fill(pool, 2)
        assert proxy.silence() == 2
        with ExitStack() as stack:  # two that are well, and stay so
            silent = [stack.enter_context(pool.connection(5)) for _ in range(2)]
            fill(pool, 2)
            began = time.monotonic()
            for conn in silent:
                with pytest.raises(errors.CallTimeoutError):
                    conn.query("SELECT 1 AS a", timeout=TIMEOUT)
        ask_all(pool, SIZE)
        took = clock.since(began)
    say(f"\n2 of {SIZE} cut off silently: all permits serve again after {took:.1f} s; the server's peak {seen.peak}")
    assert took < BACK
    assert seen.peak == SIZE


@on_servers
def test_all_are_cut_off(database_uri: str, judge: Judge, proxy: Proxy, clock: Clock) -> None:
    with PoolManager(proxy.uri, SIZE) as manager, judge.watch() as seen:
        pool = manager.pool()
        fill(pool, SIZE)
        assert proxy.silence() == SIZE
        began = time.monotonic()
        ask_all(pool, SIZE)
        took = clock.since(began)
    over = sum(count > SIZE for _, count in seen.series) / len(seen.series)
    say(
        f"\nall {SIZE} cut off silently: all permits serve again after {took:.1f} s; the server's peak {seen.peak}, "
        f"above {SIZE} in {over:.1%} of {seen.samples} looks"
    )
    assert took < BACK
    assert seen.peak <= SIZE + 1


@on_servers
def test_all_of_several_processes(database_uri: str, judge: Judge, proxy: Proxy, clock: Clock) -> None:
    """One of them asks at a time."""
    with PoolManager(proxy.uri, SIZE) as manager, crew(manager, 2) as (one, two), judge.watch() as seen:
        for each in (one, two):
            each.ask("hold", 2)
        for each in (one, two):
            each.ask("release")
        assert proxy.silence() == SIZE
        began = time.monotonic()
        ask_all(manager.pool(), SIZE)
        took = clock.since(began)
        proxy.cut()  # whatever the two leave behind when they are ended
    say(f"\nof two other processes: all permits serve again after {took:.1f} s; the server's peak {seen.peak}")
    assert took < BACK
    assert seen.peak <= SIZE + 1


@on_servers
def test_one_that_is_at_work_is_left_alone(database_uri: str, judge: Judge, proxy: Proxy) -> None:
    """Its statement was given up, and the server has not ended it: it may still take effect."""
    slow = "SELECT pg_sleep(2.5)::text AS a" if database_uri.startswith("postgresql") else "SELECT SLEEP(2.5) AS a"
    with PoolManager(proxy.uri, 2) as manager, judge.watch() as seen:
        pool = manager.pool()
        with pool.connection(5) as conn:
            (backend,) = judge.list()
            fill(pool, 1)
            proxy.silence()
            with pytest.raises(errors.CallTimeoutError):
                conn.query(slow, timeout=TIMEOUT)
        with pool.connection(5) as conn, pytest.raises(errors.CallTimeoutError):
            conn.query("SELECT 1 AS a", timeout=TIMEOUT)
        ask_all(pool, 2)
        until(lambda: backend not in judge.list())
    assert seen.peak <= 3
