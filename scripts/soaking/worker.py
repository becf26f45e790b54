"""A worker of the soak: threads and tasks that borrow without pause, each job in the worker's journal.

A journal is a file with one writer. A line for each job that begins (``b``), ends with the right answer (``e`` and how
long the borrower waited), fails by the database (``d``) or by the pool (``x``, with what was said); and in the end
(``r``), when the process ends as it should, how often the server refused a connection because the user had all.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import threading
import time

from mppool import PoolManager, errors

PATIENCE = 30.0
THREADS = TASKS = 2
SLEEPS = {"postgresql": "SELECT pg_sleep({:.3f})::text AS a", "mysql": "SELECT SLEEP({:.3f}) AS a"}


class Journal:
    """Where one process writes what becomes of its jobs."""

    def __init__(self, folder: str) -> None:
        name = f"{os.getpid()}-{time.time_ns()}"  # pids come again
        self._fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, kind: str, job: int, more: object = "") -> None:
        os.write(self._fd, f"{kind} {job} {more}\n".encode())  # one call: whole or not at all


class Worker:
    """One process's part.

    Args:
        over: a byte of shared memory: not zero when no more jobs are to begin.
        folder: of the journals.
    """

    def __init__(self, manager: PoolManager, provider: str, over: mmap.mmap, folder: str, seed: int) -> None:
        self.pool = manager.pool(conn_timeout=PATIENCE)
        self.async_pool = manager.async_pool(conn_timeout=PATIENCE)
        self.provider, self.over, self.folder = provider, over, folder
        self.journal = Journal(folder)
        self.random = random.Random(seed)
        self._numbers = iter(range(1, 1 << 60))

    def run(self, forks: bool) -> None:
        tasks = threading.Thread(target=lambda: asyncio.run(self._tasks()))
        threads = [threading.Thread(target=self._thread) for _ in range(THREADS)]
        for each in (tasks, *threads):
            each.start()
        while forks and not self.over[0]:
            time.sleep(self.random.uniform(0.3, 3.0))
            self._fork()
        for each in (tasks, *threads):
            each.join()
        self.journal.note("r", 0, self.pool.stats().refused_full)

    def _fork(self) -> None:
        """A child that borrows, too, until it is killed."""
        pid = os.fork()
        if not pid:
            fuse = threading.Timer(self.random.uniform(0.0, 0.2), os.kill, (os.getpid(), signal.SIGKILL))
            fuse.start()
            self.journal = Journal(self.folder)
            while True:
                self._job_here()
        os.waitpid(pid, 0)

    # -- jobs ------------------------------------------------------------------------------------------------

    def _choose(self, job: int) -> tuple[str, int | None]:
        """What to ask, and the right answer."""
        sleep = SLEEPS.get(self.provider)
        if sleep and self.random.random() < 0.1:
            return sleep.format(self.random.uniform(0.05, 0.3)), None
        return f"SELECT {job} AS a", job

    def _end(self, job: int, waited: float, error: Exception | None) -> None:
        if error is None:
            self.journal.note("e", job, f"{waited:.4f}")
        elif isinstance(error, errors.PySQLXError) and not isinstance(error, errors.ConnectError):
            self.journal.note("d", job, repr(error))
        else:
            self.journal.note("x", job, repr(error))

    def _thread(self) -> None:
        while not self.over[0]:
            self._job_here()

    def _job_here(self) -> None:
        job, waited, error = next(self._numbers), 0.0, None
        self.journal.note("b", job)
        began = time.monotonic()
        try:
            with self.pool.connection() as conn:
                waited = time.monotonic() - began
                sql, answer = self._choose(job)
                if self.random.random() < 0.2:
                    with conn.transaction():
                        row = conn.query_first(sql)
                else:
                    row = conn.query_first(sql)
                assert answer is None or row.a == answer, f"{row} instead of {answer}"
                if self.random.random() < 0.02:
                    conn.close()
        except Exception as failure:
            error = failure
        self._end(job, waited, error)
        time.sleep(self.random.uniform(0.0, 0.004))

    async def _tasks(self) -> None:
        await asyncio.gather(*(self._task() for _ in range(TASKS)))

    async def _task(self) -> None:
        while not self.over[0]:
            job, waited, error = next(self._numbers), 0.0, None
            self.journal.note("b", job)
            began = time.monotonic()
            try:
                async with self.async_pool.connection() as conn:
                    waited = time.monotonic() - began
                    sql, answer = self._choose(job)
                    row = await conn.query_first(sql)
                    assert answer is None or row.a == answer, f"{row} instead of {answer}"
            except Exception as failure:
                error = failure
            self._end(job, waited, error)
            await asyncio.sleep(self.random.uniform(0.0, 0.004))
