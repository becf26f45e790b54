"""A worker of the soak: threads and tasks that borrow without pause, each job in the worker's journal.

A journal is a file with one writer. A line for each job that begins (``b``), ends with the right answer (``e`` and how
long the borrower waited), fails by the database (``d``), by a fault on purpose (``s``) or by the pool (``x``, with what
was said); for each fault on purpose (``f``); and in the end (``r``), when the process ends as it should, how often the
server refused a connection because the user had all.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing

from mppool import PoolManager, errors
from scripts.soaking.faults import STRIKES, Handlers, hooks, own_limit, patiently, wants_descriptors

PATIENCE = 30.0
IN_A_HANDLER = 0.5  # seconds that a job of a signal's handler waits
# The job that it interrupts may have the last permit, or be inside the pool.
IN_A_HANDLER_FAILS = (errors.PoolTimeoutError, errors.ReentrantBorrowError)
THREADS = TASKS = 2
SLEEPS = {"postgresql": "SELECT pg_sleep({:.3f})::text AS a", "mysql": "SELECT SLEEP({:.3f}) AS a"}


class Journal:
    """Where one process writes what becomes of its jobs."""

    def __init__(self, folder: str) -> None:
        name = f"{os.getpid()}-{time.time_ns()}"  # pids come again
        path = os.path.join(folder, name)
        self._fd = patiently(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def note(self, kind: str, job: int, more: object = "") -> None:
        os.write(self._fd, f"{kind} {job} {more}\n".encode())  # one call: whole or not at all


class Worker:
    """One process's part.

    Args:
        over: a byte of shared memory: not zero when no more jobs are to begin.
        folder: of the journals.
        faults: kinds of them.
    """

    def __init__(
        self, manager: PoolManager, provider: str, over: mmap.mmap, folder: str, seed: int, faults: frozenset[str]
    ) -> None:
        self.provider, self.over, self.folder, self.faults = provider, over, folder, faults
        self.journal = Journal(folder)
        self.random = random.Random(seed)
        self._numbers = iter(range(1, 1 << 60))
        self._handlers = Handlers(self._note_fault, lambda: self._job_here(IN_A_HANDLER), self.random)
        if "signals" in faults:
            self._handlers.install()
        settings = hooks(self._note_fault, self.random) if "hooks" in faults else {}
        self.pool = manager.pool(conn_timeout=PATIENCE, **settings)
        self.async_pool = manager.async_pool(conn_timeout=PATIENCE, **settings)

    def _note_fault(self, what: str) -> None:
        self.journal.note("f", 0, what)

    def run(self, forks: bool) -> None:
        tasks = threading.Thread(target=self._loop)
        threads = [threading.Thread(target=self._thread) for _ in range(THREADS)]
        if forks and "signals" in self.faults:
            threads.append(threading.Thread(target=self._forks))
        for each in (tasks, *threads):
            each.start()
        while "signals" in self.faults and not self.over[0]:
            self._exposed_job()  # and the next: pauses would only be struck in vain
        if forks:
            self._forks()
        for each in (tasks, *threads):
            each.join()
        self.journal.note("r", 0, self.pool.stats().connections_refused)

    def _forks(self) -> None:
        while not self.over[0]:
            time.sleep(self.random.uniform(0.3, 3.0))
            self._fork()

    def _fork(self) -> None:
        """A child that borrows, too, until it is killed."""
        pid = os.fork()
        if not pid:
            own_limit()
            fuse = threading.Timer(self.random.uniform(0.0, 0.2), os.kill, (os.getpid(), signal.SIGKILL))
            fuse.start()
            self.journal = Journal(self.folder)
            while True:
                self._job_here()
                self._pause()
        os.waitpid(pid, 0)

    # -- jobs ------------------------------------------------------------------------------------------------

    def _choose(self, job: int) -> tuple[str, int | None]:
        """What to ask, and the right answer."""
        sleep = SLEEPS.get(self.provider)
        if sleep and self.random.random() < 0.1:
            return sleep.format(self.random.uniform(0.05, 0.3)), None
        return f"SELECT {job} AS a", job

    def _end(self, job: int, waited: float, error: BaseException | None, expected: bool = False) -> None:
        """``expected``: a fault on purpose may have been the cause of the error, if there is one."""
        if error is None:
            self.journal.note("e", job, f"{waited:.4f}")
        elif expected or ("descriptors" in self.faults and wants_descriptors(error)):
            self.journal.note("s", job, repr(error))
        elif isinstance(error, errors.PySQLXError) and not isinstance(error, errors.ConnectError):
            self.journal.note("d", job, repr(error))
        else:
            self.journal.note("x", job, repr(error))

    def _thread(self) -> None:
        while not self.over[0]:
            self._job_here()
            self._pause()

    def _pause(self) -> None:
        time.sleep(self.random.uniform(0.0, 0.004))

    def _begin(self) -> int:
        job = next(self._numbers)
        self.journal.note("b", job)
        return job

    def _job_here(self, patience: float = PATIENCE) -> None:
        job, waits, error = self._begin(), list[float](), None
        try:
            self._borrow(job, waits, patience, lambda: None)
        except Exception as failure:
            error = failure
        self._end(job, sum(waits), error, patience < PATIENCE and isinstance(error, IN_A_HANDLER_FAILS))

    def _exposed_job(self) -> None:
        """In the main thread: signals may strike in the midst of it, and so may they in whatever ends it."""
        handlers, job, waits = self._handlers, self._begin(), list[float]()
        error: BaseException | None = None
        handlers.struck = False
        try:
            try:
                handlers.exposed = True
                self._borrow(job, waits, PATIENCE, handlers.set_timer)
            except Exception as failure:
                error = failure
            finally:
                handlers.exposed = False
        except STRIKES as strike:
            error = strike
        self._end(job, sum(waits), error, handlers.struck)

    def _borrow(self, job: int, waits: list[float], patience: float, on_the_way: Callable[[], None]) -> None:
        """``waits``: gets the seconds that this one waited. ``on_the_way``: called on the way in and on the way out."""
        began = time.monotonic()
        on_the_way()
        with self.pool.connection(patience) as conn:
            waits.append(time.monotonic() - began)
            sql, answer = self._choose(job)
            if self.random.random() < 0.2:
                with conn.transaction():
                    row = conn.query_first(sql)
            else:
                row = conn.query_first(sql)
            assert answer is None or row.a == answer, f"{row} instead of {answer}"
            if self.random.random() < 0.02:
                conn.close()
            on_the_way()

    def _loop(self) -> None:
        with closing(patiently(asyncio.new_event_loop)) as loop:
            loop.run_until_complete(self._tasks())

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
