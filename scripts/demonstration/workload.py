"""The work: jobs that each borrow a connection, ask it something, check the answer and hold it for a while.

It is the workload of PySQLXEngine's own pool example, spread over processes. The times are drawn once from a
seed, so the shortest possible wall time (the floor) is known exactly before the first job runs.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

AT_ONCE = 50  # jobs that one process has under way: threads of a sync worker, tasks of an async one
KINDS = ("sync", "sync", "async", "async")


@dataclass(frozen=True)
class Plan:
    """Who does what.

    Args:
        max_size: the budget.
        holds: for each worker, the seconds that its jobs hold their connections.
    """

    max_size: int
    holds: tuple[tuple[float, ...], ...]

    @classmethod
    def draw(cls, jobs: int, workers: int, max_size: int, seed: int, least: float, most: float) -> Plan:
        draw = random.Random(seed)
        times = [draw.uniform(least, most) for _ in range(jobs)]
        return cls(max_size, tuple(tuple(times[worker::workers]) for worker in range(workers)))

    @property
    def jobs(self) -> int:
        return sum(map(len, self.holds))

    @property
    def floor(self) -> float:
        """Seconds that nobody can beat with `max_size` connections, at most 50 of them in each process."""
        usable = min(self.max_size, AT_ONCE * len(self.holds))
        return max(sum(map(sum, self.holds)) / usable, max((max(h, default=0.0) for h in self.holds), default=0.0))

    def kind(self, worker: int) -> str:
        """ "sync" or "async": half of the workers each, and the first one is sync."""
        return KINDS[worker * len(KINDS) // len(self.holds)]

    def label(self, worker: int) -> str:
        """What it is called."""
        return f"process {worker + 1} ({self.kind(worker)})"


@dataclass
class Report:
    """What one worker did.

    Args:
        waits: for each job that got a connection, the seconds it waited.
        errors: what went wrong, as text.
        finished: `time.monotonic()` at the end of the last job.
    """

    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    finished: float = 0.0


def work(worker: int, kind: str, pool: Any, holds: tuple[float, ...], done: Any, line: Any) -> None:
    """The life of a worker process: say ready, wait for the word, do the jobs, report.

    Args:
        pool: the handle inherited from the parent, `PySQLXEnginePoolSync` or `PySQLXEnginePool`.
        done: a shared array; this worker counts its jobs in its own cell.
        line: the pipe to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: end at once; the budget takes care of the rest
    report = Report()

    def count(waited: float) -> None:
        report.waits.append(waited)
        done[worker] += 1

    def fail(error: Exception) -> None:
        report.errors.append(f"{type(error).__name__}: {error}")
        done[worker] += 1

    line.send("ready")
    line.recv()
    try:
        if kind == "sync":
            pool.start()  # not needed; it says at once what would make every job fail
            _run_threads(pool, holds, count, fail)
        else:
            asyncio.run(_run_tasks(pool, holds, count, fail))
    except Exception as error:
        fail(error)
    report.finished = time.monotonic()
    line.send(report)
    line.recv()  # stay attached until all are done, as a server's workers would


def _run_threads(pool: Any, holds: tuple[float, ...], count: Any, fail: Any) -> None:
    def job(hold: float) -> None:
        asked = time.monotonic()
        try:
            with pool.connection() as connection:
                waited = time.monotonic() - asked
                if connection.query_first("SELECT 1 AS a").a != 1:
                    raise ValueError("the database says that 1 is not 1")
                time.sleep(hold)
        except Exception as error:
            fail(error)
        else:
            count(waited)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(job, holds))


async def _run_tasks(pool: Any, holds: tuple[float, ...], count: Any, fail: Any) -> None:
    await pool.start()
    room = asyncio.Semaphore(AT_ONCE)

    async def job(hold: float) -> None:
        async with room:
            asked = time.monotonic()
            try:
                async with pool.connection() as connection:
                    waited = time.monotonic() - asked
                    if (await connection.query_first("SELECT 1 AS a")).a != 1:
                        raise ValueError("the database says that 1 is not 1")
                    await asyncio.sleep(hold)
            except Exception as error:
                fail(error)
            else:
                count(waited)

    await asyncio.gather(*map(job, holds))
