"""Callers wait in line for a few connections: how long each query holds one of them, and by what.

One process; `CALLERS` threads, or tasks of one event loop, share `CONNECTIONS` connections, so a line stands all the
time and each give-back hands the connection to the next caller. Each runs ``SELECT 41 + 1 AS a FROM pg_sleep(0.002)``.

``cycle``: the time a connection spends on one query and the hand-over to the next; throughput comes from it.
``server``: of that, what the server counts as spent on the statement (``active_time`` of the database's statistics).
``answer``: statement to result as the caller sees it. ``next``: result to the next statement on the same connection:
the give-back, the wake-up of the next caller, its turn at the interpreter's lock or in the loop. Both are means.
``processor``: user and system time of this process for one query. ``switches``: context switches of all its threads.

``own``: as many callers as connections and no pool, so nobody waits in line: what a driver alone costs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting, Skip
from scripts.benchmarks.server import own_database

CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "4"))
CALLERS = int(os.environ.get("BENCH_CALLERS", "16"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
WARM = 0.5  # seconds that are not counted
SQL = "SELECT 41 + 1 AS a FROM pg_sleep(0.002)"
ACTIVE = "SELECT active_time FROM pg_stat_database WHERE datname = %s"

Turn = tuple[int, float, float]  # which connection; when the statement began; when its result was there


class Count:
    """What callers note, and what is counted of it: from `begin` to `end`."""

    def __init__(self, callers: int) -> None:
        self.turns: list[list[Turn]] = [[] for _ in range(callers)]
        self.over = threading.Event()

    def begin(self) -> None:
        self._used, self._start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()

    def end(self) -> None:
        before, after = self._used, resource.getrusage(resource.RUSAGE_SELF)
        self._stop = time.perf_counter()
        self._processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self._switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
        self.over.set()

    def _by_connection(self) -> list[list[Turn]]:
        found: dict[int, list[Turn]] = {}
        for turn in sorted(turn for turns in self.turns for turn in turns):
            if self._start <= turn[1] and turn[2] <= self._stop:
                found.setdefault(turn[0], []).append(turn)
        return list(found.values())

    def sample(self) -> dict[str, float]:
        lines = self._by_connection()
        queries = sum(map(len, lines))
        answers = [came - sent for line in lines for _, sent, came in line]
        nexts = [after[1] - turn[2] for line in lines for turn, after in itertools.pairwise(line)]
        return {
            "cycle": CONNECTIONS * (self._stop - self._start) / queries * 1e6,
            "answer": statistics.fmean(answers) * 1e6,
            "next": statistics.fmean(nexts) * 1e6,
            "processor": self._processor / queries * 1e6,
            "switches": self._switches / queries,
        }


def _call(borrow: Callable[[], Any], ask: Callable[[Any, str], Any], turns: list[Turn], over: threading.Event) -> None:
    clock = time.perf_counter
    while not over.is_set():
        with borrow() as connection:
            sent = clock()
            ask(connection, SQL)
            turns.append((_identity(connection), sent, clock()))


async def _call_async(borrow: Any, ask: Any, turns: list[Turn], over: threading.Event) -> None:
    clock = time.perf_counter
    while not over.is_set():
        async with borrow() as connection:
            sent = clock()
            await ask(connection, SQL)
            turns.append((_identity(connection), sent, clock()))


def _identity(connection: Any) -> int:
    """The same for each borrow; of ours, each gets a new face."""
    return id(getattr(connection, "_link", connection))


def _threads(peer: Any, callers: int, uri: str) -> Count:
    count = Count(callers)
    with peer(uri, CONNECTIONS, CONNECTIONS) as (borrow, ask):
        threads = [threading.Thread(target=_call, args=(borrow, ask, turns, count.over)) for turns in count.turns]
        for thread in threads:
            thread.start()
        time.sleep(WARM)
        count.begin()
        time.sleep(SECONDS)
        count.end()
        for thread in threads:
            thread.join()
    return count


async def _tasks(peer: Any, callers: int, uri: str) -> Count:
    count = Count(callers)
    async with peer(uri, CONNECTIONS, CONNECTIONS) as (borrow, ask):
        tasks = [asyncio.create_task(_call_async(borrow, ask, turns, count.over)) for turns in count.turns]
        await asyncio.sleep(WARM)
        count.begin()
        await asyncio.sleep(SECONDS)
        count.end()
        await asyncio.gather(*tasks)
    return count


def _on_asyncio(peer: Any, callers: int, uri: str) -> Count:
    return asyncio.run(_tasks(peer, callers, uri))


def _on_uvloop(peer: Any, callers: int, uri: str) -> Count:
    try:
        import uvloop
    except ImportError:
        raise Skip("uvloop is not installed") from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_tasks(peer, callers, uri))


def _measure(run: Callable[[Any, int, str], Count], peer: Any, callers: int, setting: Setting) -> Sample:
    import psycopg

    with own_database("postgresql", setting) as made:
        uri = made.uri
        count = run(peer, callers, uri)
        with psycopg.connect(setting.postgres_uri, autocommit=True) as conn:
            name = urlsplit(uri).path[1:]
            while conn.execute("SELECT 1 FROM pg_stat_activity WHERE datname = %s", [name]).fetchone():
                time.sleep(0.01)  # backends report when they end
            row: Any = conn.execute(ACTIVE, [name]).fetchone()
        return {**count.sample(), "server": row[0] * 1e3 / sum(map(len, count.turns))}


@contextmanager
def _taken(free: list[Any]) -> Iterator[Any]:
    """One of them; there is always one, as there are as many as callers."""
    one = free.pop()
    try:
        yield one
    finally:
        free.append(one)


@asynccontextmanager
async def _taken_async(free: list[Any]) -> AsyncIterator[Any]:
    with _taken(free) as one:
        yield one


@contextmanager
def _core(uri: str, size: int, warm: int) -> Iterator[peers.Face]:
    from mppool.database.connection.opening import open_link
    from mppool.database.runtime.loop_stand_in import drive
    from mppool.settings import Database

    links = [open_link(Database.parse(uri)) for _ in range(size)]
    statement = links[0].statement(SQL)
    yield partial(_taken, list(links)), lambda link, _: drive(link.conn.query_typed(statement)).get_first()
    for link in links:
        link.close()


@asynccontextmanager
async def _core_async(uri: str, size: int, warm: int) -> AsyncIterator[peers.Face]:
    from mppool.database.connection.opening import opening
    from mppool.settings import Database

    links = [await opening(Database.parse(uri)) for _ in range(size)]
    statement = links[0].statement(SQL)

    async def ask(link: Any, _: str) -> Any:
        return (await link.conn.query_typed(statement)).get_first()

    yield partial(_taken_async, list(links)), ask
    for link in links:
        link.close()


@contextmanager
def _psycopg(uri: str, size: int, warm: int) -> Iterator[peers.Face]:
    import psycopg

    opened = [psycopg.connect(uri, autocommit=True) for _ in range(size)]
    yield partial(_taken, list(opened)), lambda connection, sql: connection.execute(sql).fetchone()
    for connection in opened:
        connection.close()


def _peers() -> dict[str, Callable[[Setting], Sample]]:
    chosen: tuple[tuple[str, Any, Any, int], ...] = (
        ("threads: mppool", _threads, peers.mppool, CALLERS),
        ("threads: psycopg_pool", _threads, peers.psycopg_pool, CALLERS),
        ("threads: own, core", _threads, _core, CONNECTIONS),
        ("threads: own, psycopg", _threads, _psycopg, CONNECTIONS),
        ("tasks: mppool", _on_asyncio, peers.mppool_async, CALLERS),
        ("tasks: psycopg_pool", _on_asyncio, peers.psycopg_pool_async, CALLERS),
        ("tasks: own, core", _on_asyncio, _core_async, CONNECTIONS),
        ("uvloop: mppool", _on_uvloop, peers.mppool_async, CALLERS),
        ("uvloop: psycopg_pool", _on_uvloop, peers.psycopg_pool_async, CALLERS),
    )
    return {name: partial(_measure, run, peer, callers) for name, run, peer, callers in chosen}


BENCHMARK = Benchmark(
    "turnaround",
    f"{CALLERS} callers in one process wait in line for {CONNECTIONS} connections, a query of 2 ms each",
    {"cycle": "µs", "server": "µs", "answer": "µs", "next": "µs", "processor": "µs", "switches": ""},
    _peers(),
    rounds=3,
    compare=False,
)
