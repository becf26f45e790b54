"""Callers in several processes at once, for measuring how they share: `measure` forks and watches them.

Each process runs threads that borrow, ask for a query, and think until they ask again, all the time or while it is
their process's turn. A caller's extra time is what borrowing and asking take together, less the seconds that the query
sleeps on the server: behind a PgBouncer callers wait in the query, with a pool before it.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks.contract import Sample
from scripts.benchmarks.peers import Face

SETTLE = 1.0
#: What a process opens in itself.
Pool = Callable[[], AbstractContextManager[Face]]


@dataclass(frozen=True)
class Plan:
    """
    Args:
        threads: callers in each process.
        query: seconds that each query takes on PostgreSQL.
        think: seconds between a caller's queries.
        turn: seconds until another process is the busy one; 0: all are busy all the time.
        seconds: measured, after a second that is not.
    """

    processes: int
    threads: int
    query: float
    think: float = 0.0
    turn: float = 0.0
    seconds: float = 6.0

    def busy_at(self, now: float) -> int | None:
        """The process that is busy then; each comes in turn. None: all are."""
        return int(now / self.turn) % self.processes if self.turn else None


def measure(plan: Plan, pool: Pool) -> Sample:
    """``queries`` a second, and ``p50``, ``p99`` and ``longest`` of the callers' extra times, in ms."""
    fork = multiprocessing.get_context("fork")
    lines, children = [], []
    for number in range(plan.processes):
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_live, args=(plan, number, pool, theirs), daemon=True)
        child.start()
        theirs.close()
        lines.append(ours)
        children.append(child)
    for line in lines:
        line.recv()
    begin = time.monotonic() + SETTLE
    for line in lines:
        line.send(begin)
    waits = sorted(wait for line in lines for wait in line.recv())
    for line in lines:
        line.send("leave")  # only now: whoever leaves frees what it has
    for child in children:
        child.join()
    return {
        "queries": len(waits) / plan.seconds,
        "p50": waits[len(waits) // 2] * 1e3,
        "p99": waits[int(len(waits) * 0.99)] * 1e3,
        "longest": waits[-1] * 1e3,
    }


def _live(plan: Plan, number: int, pool: Pool, line: Any) -> None:
    with pool() as (borrow, ask):
        with borrow() as connection:
            ask(connection, "SELECT 1 AS a")
        line.send("ready")
        begin = line.recv()
        callers = [_Caller(plan, number, borrow, ask, begin) for _ in range(plan.threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        line.send([wait for caller in callers for wait in caller.waits])
        line.recv()


class _Caller(threading.Thread):
    def __init__(self, plan: Plan, number: int, borrow: Any, ask: Any, begin: float) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._plan, self._number, self._begin = plan, number, begin
        self._borrow, self._ask = borrow, ask

    def run(self) -> None:
        plan, end = self._plan, self._begin + self._plan.seconds
        sql = f"SELECT 1 AS a FROM pg_sleep({plan.query})"
        while (now := time.monotonic()) < end:
            if plan.busy_at(now) not in (None, self._number):
                time.sleep(min(plan.turn - now % plan.turn, end - now))
                continue
            with self._borrow() as connection:
                self._ask(connection, sql)
            if now >= self._begin:
                self.waits.append(max(0.0, time.monotonic() - now - plan.query))
            if plan.think:
                time.sleep(plan.think)
