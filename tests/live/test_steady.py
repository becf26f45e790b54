"""Sharing while callers never stop: nobody waits for long beside a connection that lies idle in another process.

Real processes, threads or tasks in each, and the ledger sampled all the while. Nothing ever comes to rest, so a rule
that only acts on a caller who has waited for long, or once a line stands still, is found here and nowhere else.

The bounds are the promise's, made generous. A connection is worth moving once it has been idle for as long as a
reconnect takes, which is 0.1 to 5 ms here: OLD is twenty times that. Then somebody has to ask (a wait of some
reconnects), the manager to decide (ms), the permits to move, of which a few dozen a second are allowed at worst; so few
are idle here that all have gone after 0.2 s. BESIDE is more than twice that, for processors that others use. A caller
of a short job can be behind that, a job of 0.2 s that holds its process's last connection, and some turns in line:
LONGEST. Policies that keep a connection idle or a caller waiting for good overstep both within the seconds of a test,
however slow the machine is; a slow machine alone does not, since a time in which nothing could be sampled is not held
against anybody. Nor is a time in which the server took STALL and more to let a connection in: where the kernel
schedules sessions as groups (Linux' autogroup), other work was seen to keep a database server from running for seconds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pytest

from mppool import PoolManager
from mppool.database.contract import Link, open_link
from mppool.process import connector
from mppool.shared import paths
from mppool.uri import Database
from scripts.benchmarks.sampler import Sampler, Tally
from tests.beats import beating
from tests.waiting import forked

SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "3"))
PROCESSES = 4
SHORT, LONG = 0.004, 0.2  # seconds that a caller keeps a connection
OLD, BESIDE, LONGEST = 0.1, 0.5, 1.0  # seconds; see above
STALL = 0.1  # seconds that the server takes for what it does in 5 ms; see above
PAUSE = 0.01  # between looks of callers whose turn it is not


@dataclass(frozen=True)
class Scenario:
    """
    Args:
        active: how many callers are at work in a process, so many seconds after the beginning.
        most: of them in one process, ever.
        long: the first so many callers of each process keep their connections for long.
    """

    permits: int
    active: Callable[[int, float], int]
    most: int
    long: int = 0


def _roving(number: int, since: float) -> int:
    """Who is busy changes every 0.3 s; the others have one caller each."""
    return 8 if int(since / 0.3) % PROCESSES == number else 1


def _beside_long(number: int, since: float) -> int:
    """The same, and everywhere one more that keeps its connection for long."""
    return 6 if int(since / 0.3) % PROCESSES == number else 2


def _skewed(number: int, since: float) -> int:
    """After half a second in which all are alike, one has most of the callers, and fewer in all than permits."""
    if since < 0.5:
        return 4
    return 8 if number == 0 else 1


SCENARIOS = {
    "the busy one changes": Scenario(8, _roving, most=8),
    "one has most callers": Scenario(16, _skewed, most=8),
    "long jobs among short ones": Scenario(8, _beside_long, most=6, long=1),
}


Span = tuple[float, float]  # from and until when, of the monotonic clock


def _outside(span: Span, others: list[Span]) -> float:
    """Seconds of the span in which none of the others was going on."""
    at, until, outside = *span, 0.0
    for begun, ended in sorted(others):
        outside += max(0.0, min(begun, until) - at)
        at = max(at, min(ended, until))
    return outside + until - at


class Worker:
    """A forked process full of callers. It runs there.

    Attributes:
        jobs: done.
        waits: of callers of short jobs for their connections, those longer than STALL.
        stalls: connections that the server took so long for.
    """

    def __init__(self, scenario: Scenario, number: int, begin: float) -> None:
        self._scenario, self._number, self._begin = scenario, number, begin
        self._end = begin + SECONDS
        self.jobs = 0
        self.waits: list[Span] = []
        self.stalls: list[Span] = []
        connector.open_link = self._open_link

    def _turns(self, caller: int) -> Iterator[float]:
        """How long to do what: a positive number of seconds is a job's, a negative one a pause's."""
        keeps = LONG if caller < self._scenario.long else SHORT
        while (now := time.monotonic()) < self._end:
            active = self._scenario.active(self._number, max(0.0, now - self._begin))
            yield keeps if now >= self._begin and caller < active else -PAUSE

    def _open_link(self, database: Database, **options: Any) -> Link:
        began = time.monotonic()
        try:
            return open_link(database, **options)
        finally:
            if (now := time.monotonic()) - began > STALL:
                self.stalls.append((began, now))

    def _note(self, keeps: float, began: float) -> None:
        self.jobs += 1
        if keeps == SHORT and (now := time.monotonic()) - began > STALL:
            self.waits.append((began, now))

    def threads(self, manager: PoolManager, ready: Callable[[], None]) -> None:
        pool = manager.pool()
        failures: list[BaseException] = []

        def caller(number: int) -> None:
            try:
                for keeps in self._turns(number):
                    if keeps < 0:
                        time.sleep(-keeps)
                        continue
                    began = time.monotonic()
                    with pool.connection() as conn:
                        self._note(keeps, began)
                        assert conn.query_first("SELECT 1 AS a").a == 1
                        time.sleep(keeps)
            except BaseException as error:
                failures.append(error)

        callers = [threading.Thread(target=caller, args=(number,)) for number in range(self._scenario.most)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        assert failures == []
        ready()
        pool.stop()

    def tasks(self, manager: PoolManager, ready: Callable[[], None]) -> None:
        pool = manager.async_pool()

        async def caller(number: int) -> None:
            for keeps in self._turns(number):
                if keeps < 0:
                    await asyncio.sleep(-keeps)
                    continue
                began = time.monotonic()
                async with pool.connection() as conn:
                    self._note(keeps, began)
                    assert (await conn.query_first("SELECT 1 AS a")).a == 1
                    await asyncio.sleep(keeps)

        async def main() -> None:
            await asyncio.gather(*(caller(number) for number in range(self._scenario.most)))
            ready()
            await pool.stop()

        asyncio.run(main())


def _work(manager: PoolManager, scenario: Scenario, number: int, callers: str, pipe: Connection) -> None:
    worker = Worker(scenario, number, pipe.recv())

    def ready() -> None:
        pipe.send((worker.jobs, worker.waits, worker.stalls))
        pipe.recv()  # until all have ended: whoever leaves frees what it has

    getattr(worker, callers)(manager, ready)


@contextmanager
def _sampled(manager: PoolManager) -> Iterator[list[Tally]]:
    """Looks into the budget's ledger during the block; what it saw is in the list afterwards."""
    sampler, seen = Sampler(os.path.join(paths.folder(manager.name), paths.LEDGER), OLD), []
    sampler.start()
    try:
        yield seen
    finally:
        seen.append(sampler.end())


@pytest.mark.parametrize("callers", ["threads", "tasks"])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_nobody_waits_for_long_beside_an_idle_connection(database_uri: str, scenario: Scenario, callers: str) -> None:
    with PoolManager(database_uri, scenario.permits) as manager, beating() as clock, ExitStack() as stack:
        pipes, children = [], []
        for number in range(PROCESSES):
            ours, theirs = Pipe()
            children.append(stack.enter_context(forked(_work, manager, scenario, number, callers, theirs)))
            theirs.close()
            stack.callback(ours.close)
            pipes.append(ours)
        begin = time.monotonic() + 0.2
        for pipe in pipes:
            pipe.send(begin)
        with _sampled(manager) as seen:
            told = []
            for pipe in pipes:
                assert pipe.poll(SECONDS + 20), "a worker has not ended"
                told.append(pipe.recv())
            over = time.monotonic()
        busy = max(1.0, (over - begin) / clock.between(begin, over))  # as many times longer everything takes
        for pipe in pipes:
            pipe.send("leave")
        assert [child.join() for child in children] == [0] * PROCESSES
    (tally,) = seen
    jobs, stalls = sum(jobs for jobs, _, _ in told), [stall for _, _, stalls in told for stall in stalls]
    longest = max((_outside(wait, stalls) for _, waits, _ in told for wait in waits), default=0.0)
    beside = max((_outside((since, until), stalls) for (_, since), until in tally.spans.items()), default=0.0)
    print(f"{jobs} jobs, longest wait of a short one {longest * 1e3:.0f} ms, beside {len(stalls)} stalls of the server")
    print(f"{tally}; {beside * 1e3:.0f} ms without the stalls; {busy:.1f} times as busy")
    assert jobs > 100
    assert tally.samples > 100
    assert beside <= BESIDE * busy, f"an idle connection stayed beside waiters elsewhere: {tally}"
    assert longest <= LONGEST * busy, f"a caller of a short job waited for {longest:.2f} s: {tally}"
