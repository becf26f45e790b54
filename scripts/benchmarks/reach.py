"""How soon a caller has a connection whose permit another host has: from the borrow to the connection, all included.

Idle: one permit, eight hosts; one after the other borrows, 450 ms apart, and the last one that did has it idle. Loaded:
12 permits, four hosts of eight callers with queries of 20 ms, and a fifth host whose only caller comes every 300 ms;
what it had is mostly in use elsewhere by then. ``moved``: how often it had to wait for a permit. For comparison eight
processes of one host, without an engine.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from scripts.benchmarks.apart import as_host, need_clusters
from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.engines import KINDS, PrivateEngine, private_engine

HOSTS, TURNS, APART = 8, 96, 0.45
BUSY, CALLERS, PERMITS, QUERY = 4, 8, 12, 0.02
ASKS, ASK_EVERY = 120, 0.3
HAD = 2e-4  # seconds: who has a connection idle does not wait for longer

fork = multiprocessing.get_context("fork")


def _live(open_pool: Any, line: Any, callers: int) -> None:
    """A host: asks once for each line and says how long it waited, while so many callers ask all the time."""
    with open_pool() as (borrow, ask):
        over = threading.Event()
        threads = [threading.Thread(target=_ask_until, args=(borrow, ask, over)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        line.send(True)
        while line.recv():
            began = time.monotonic()
            with borrow() as connection:
                waited = time.monotonic() - began
                ask(connection, "SELECT 1 AS a")
            line.send(waited)
        over.set()
        for thread in threads:
            thread.join()
    line.send(True)


def _ask_until(borrow: Any, ask: Any, over: threading.Event) -> None:
    while not over.is_set():
        with borrow() as connection:
            ask(connection, f"SELECT 1 AS a FROM pg_sleep({QUERY})")


class Hosts:
    """Hosts in processes of their own; `ask` has one of them borrow."""

    def __init__(self, open_pool: Any, callers: list[int]) -> None:
        self._lines, self._processes = [], []
        for count in callers:
            ours, theirs = fork.Pipe()
            process = fork.Process(target=_live, args=(open_pool, theirs, count), daemon=True)
            process.start()
            self._lines.append(ours)
            self._processes.append(process)
        for line in self._lines:
            line.recv()

    def ask(self, number: int) -> float:
        """Seconds that this one waited."""
        self._lines[number].send(True)
        return float(self._lines[number].recv())

    def end(self) -> None:
        for line in self._lines:
            line.send(False)
        for line, process in zip(self._lines, self._processes, strict=True):
            line.recv()
            process.join()


@contextmanager
def _hosts(open_pool: Any, callers: list[int]) -> Iterator[Hosts]:
    made = Hosts(open_pool, callers)
    yield made
    made.end()


def _summary(waits: list[float]) -> Sample:
    moved = sorted(wait * 1e3 for wait in waits if wait > HAD)
    if not moved:
        return {"moved": 0.0}
    parts = {f"p{part}": moved[len(moved) * part // 100] for part in (50, 90, 99)}
    return {"moved": len(moved), **parts, "longest": moved[-1]}


def _idle(hosts: Hosts) -> list[float]:
    waits = []
    for turn in range(HOSTS * 2 + TURNS):
        waits.append(hosts.ask(turn % HOSTS))
        time.sleep(APART)
    return waits[HOSTS * 2 :]


def _loaded(hosts: Hosts) -> list[float]:
    waits = []
    time.sleep(3.0)
    for _ in range(ASKS):
        waits.append(hosts.ask(BUSY))
        time.sleep(ASK_EVERY)
    return waits


def _measure(engine: PrivateEngine | None, loaded: bool, setting: Setting, manager: Any = None) -> Sample:
    permits = PERMITS if loaded else 1
    if engine is not None:
        engine.ready(permits)
    open_pool = partial(as_host, setting.postgres_uri, permits, setting.folder, engine)
    if manager is not None:
        from scripts.benchmarks.peers import mppool_of

        open_pool = partial(mppool_of, manager)
    with _hosts(open_pool, [CALLERS] * BUSY + [0] if loaded else [0] * HOSTS) as hosts:
        return _summary(_loaded(hosts) if loaded else _idle(hosts))


def _over_hosts(kind: str, loaded: bool, setting: Setting) -> Sample:
    need_clusters()
    with private_engine(kind, setting) as engine:
        return _measure(engine, loaded, setting)


def _one_host(loaded: bool, setting: Setting) -> Sample:
    from mppool import PoolManager

    with ExitStack() as stack:
        manager = stack.enter_context(PoolManager(setting.postgres_uri, PERMITS if loaded else 1))
        return _measure(None, loaded, setting, manager)


BENCHMARK = Benchmark(
    "reach",
    "a connection whose permit another host has, from the borrow to the connection",
    {"moved": "times", "p50": "ms", "p90": "ms", "p99": "ms", "longest": "ms"},
    {
        f"{title}, {'loaded' if loaded else 'idle'}": partial(measure, loaded)
        for loaded in (False, True)
        for title, measure in {
            "processes of one host": _one_host,
            **{f"hosts on {kind}": partial(_over_hosts, kind) for kind in KINDS},
        }.items()
    },
    rounds=3,
    timeout=150.0,
    compare=False,
)
