"""Processes that do as they are told, a budget that is watched, and a manager that is killed.

A `Puppet` is a forked process with a handle; what it is asked it answers over a pipe, with what went wrong, if
anything. `Books` reads what a budget's members have by the file that they share, without asking the manager.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import Any

from mppool import PoolManager, errors
from mppool.process import registry
from mppool.process.state import RECENT
from mppool.shared import identity, paths
from mppool.shared import ledger as L
from tests.crash import faults
from tests.servers import Judge
from tests.waiting import Child, until

REPEAT = int(os.environ.get("MPPOOL_TEST_REPEAT", "0"))
# Seconds that anybody may wait when processes and their manager are killed on a machine busy with other tests: a
# new manager alone may take one then. It is far from what a permit takes that is lost (for ever) or only waited for (a
# minute); the figures that tests print are what to look at. Under full load the seconds are those of `tests.beats`.
SLOWEST = 5.0
PATIENCE = 20.0  # seconds that a borrow may take before it is an error: far beyond what any test allows


class Books:
    """What the shared ledger says of the budget in this process's runtime folder."""

    def __init__(self, name: str) -> None:
        fd = os.open(os.path.join(paths.folder(name), paths.LEDGER), os.O_RDWR)
        self._ledger = L.Ledger(fd)
        self.cells = self._ledger.cells
        os.close(fd)

    def column(self, cell: int) -> dict[int, int]:
        """{pid: value} of all rows, as it stood at one moment: read until two readings agree."""
        cells, rows = self.cells, [self._ledger.offset(index) for index in range(64)]

        def read() -> list[tuple[int, int]]:
            return [(cells[at + L.PID], cells[at + cell]) for at in rows]

        before, now = read(), read()
        while before != now:
            before, now = now, read()
        return {pid: value for pid, value in now if pid}

    def lowest(self) -> int:
        """The pid of the member that has the lowest row."""
        return next(pid for at in map(self._ledger.offset, range(64)) if (pid := int(self.cells[at + L.PID])))

    def __str__(self) -> str:
        """Who has what, a line a member."""
        names = ["CREDIT", "TARGET", "LIMIT", "KNOWN", "LEFT", "HELD", "IN_USE", "MOVING", "CLOSING", "WAITING"]
        rows = [at for at in map(self._ledger.offset, range(64)) if self.cells[at + L.PID]]
        told = [f"manager {self.manager()}, alive: {self.managed()}, hungry {self.cells[L.H_SHORT]}"]
        for at in rows:
            told.append(
                f"{self.cells[at + L.PID]}: {', '.join(f'{n} {self.cells[at + getattr(L, n)]}' for n in names)}"
            )
        return "\n".join(told)

    def manager(self) -> int:
        return int(self.cells[L.H_MANAGER])

    def managed(self) -> bool:
        """Whether the manager that signed the ledger is alive."""
        return identity.alive(self.cells[L.H_MANAGER], self.cells[L.H_STARTED])

    def close(self) -> None:
        self._ledger.close()


class Watch(threading.Thread):
    """Looks at the ledger without pause: the most permits that were ever assigned at once."""

    def __init__(self, books: Books) -> None:
        super().__init__(name="books")
        self.books, self.peak, self.samples = books, 0, 0
        self._stop_it = threading.Event()

    def peaked(self) -> int:
        """The peak since this was last asked."""
        peak, self.peak = self.peak, 0
        return peak

    def run(self) -> None:
        while not self._stop_it.wait(0.001):
            self.peak = max(self.peak, sum(self.books.column(L.CREDIT).values()))
            self.samples += 1

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join()


class Load:
    """Borrowers without pause: threads with the sync handle, tasks with the async one."""

    def __init__(self, manager: PoolManager, threads: int, tasks: int) -> None:
        self.waits: list[tuple[float, float]] = []  # when a wait ended, and how long it was
        self.failures: list[str] = []
        self._stop = threading.Event()
        pool, async_pool = manager.pool(conn_timeout=PATIENCE), manager.async_pool(conn_timeout=PATIENCE)

        def thread() -> None:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    with pool.connection() as conn:
                        self._note(began)
                        assert conn.query_first("SELECT 1 AS a").a == 1
                        time.sleep(0.002)
                except Exception as error:
                    self.failures.append(repr(error))

        async def task() -> None:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    async with async_pool.connection() as conn:
                        self._note(began)
                        assert (await conn.query_first("SELECT 1 AS a")).a == 1
                        await asyncio.sleep(0.002)
                except Exception as error:
                    self.failures.append(repr(error))

        async def all_tasks() -> None:
            await asyncio.gather(*(task() for _ in range(tasks)))

        self._threads = [threading.Thread(target=thread) for _ in range(threads)]
        if tasks:
            self._threads.append(threading.Thread(target=lambda: asyncio.run(all_tasks())))
        for each in self._threads:
            each.start()

    def _note(self, began: float) -> None:
        now = time.monotonic()
        self.waits.append((now, now - began))

    def stop(self) -> dict[str, Any]:
        self._stop.set()
        for each in self._threads:
            each.join()
        ended, wait = max(self.waits, key=lambda each: each[1])
        return {"borrows": len(self.waits), "worst": (ended - wait, ended), "failures": self.failures}


class Actions:
    """What a puppet can do. It runs in the puppet."""

    def __init__(self, manager: PoolManager) -> None:
        self.manager = manager
        self.pool = manager.pool(conn_timeout=PATIENCE)
        self.leases: list[Any] = []
        self.load: Load | None = None

    def hold(self, count: int) -> float:
        """Have so many more connections, all used once; when the last one came."""
        for _ in range(count):
            lease = self.pool.connection()
            assert lease.__enter__().query_first("SELECT 1 AS a").a == 1
            self.leases.append(lease)
        return time.monotonic()

    def release(self) -> int:
        """Give all back; the number."""
        given = 0
        while self.leases:
            self.leases.pop().__exit__(None, None, None)
            given += 1
        return given

    def want(self, count: int) -> None:
        """Begin to wait for so many more, to be held until they are released."""
        for _ in range(count):
            threading.Thread(target=self.hold, args=(1,), daemon=True).start()

    def probe(self) -> float:
        """Borrow a fresh connection and give it up; when it came."""
        with self.pool.connection() as conn:
            now = time.monotonic()
            conn.query_first("SELECT 1 AS a")
            conn.close()
        return now

    def refused(self, timeout: float) -> bool:
        """Whether nothing is to be had."""
        try:
            with self.pool.connection(timeout):
                return False
        except errors.PoolTimeoutError:
            return True

    def execute(self, sql: str) -> None:
        """Have the database at work."""
        with self.pool.connection() as conn:
            conn.query(sql)

    def stats(self) -> Any:
        return self.pool.stats()

    def reconnects_in(self, seconds: float) -> None:
        """From now on, opening a connection takes so long by this process's experience."""
        pool = registry._pools[self.manager.name]
        pool.recent.extend([seconds] * RECENT)
        pool.publish_cost()

    def run(self, threads: int, tasks: int) -> None:
        self.load = Load(self.manager, threads, tasks)

    def alternate(self, times: int) -> None:
        """Use two connections by turns, each for 2 ms: the other one is idle then."""
        lease = self.pool.connection()
        lease.__enter__()
        for _ in range(times):
            other = self.pool.connection()
            other.__enter__()
            lease.__exit__(None, None, None)
            lease = other
            time.sleep(0.002)
        lease.__exit__(None, None, None)

    def rest(self) -> dict[str, Any]:
        assert self.load is not None
        seen, self.load = self.load.stop(), None
        return seen

    # -- as a victim ---------------------------------------------------------------------------------------------

    def trace(self, point: faults.Point | None, how: str) -> None:
        """From now on, this happens to this process at that point."""
        self.forker = faults.Forker(self._use) if how == "fork" else None
        self.tracer = faults.Tracer(point, self.forker or getattr(faults, how))
        self.tracer.install()

    def _use(self) -> None:
        try:
            with self.pool.connection() as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1
        except errors.PoolClosedError:
            assert self.pool.closed  # forked just when the handle was stopped

    def phase(self, name: str, action: str, *args: Any) -> Any:
        self.tracer.phase = name
        try:
            return getattr(self, action)(*args)
        finally:
            self.tracer.phase = "in between"

    def points(self) -> list[faults.Point]:
        return self.tracer.points()

    def forked(self) -> int | None:
        """How the child ended that was forked at the point; None: it was not."""
        assert self.forker is not None
        if not self.forker._now.is_set():
            return None
        self.forker.thread.join()
        return self.forker.codes[0]

    def fail(self) -> None:
        """An exception leaves the user's block."""
        try:
            with self.pool.connection():
                raise KeyError("theirs")
        except KeyError:
            pass

    def fork(self) -> None:
        """A child comes to life in between, and borrows. It is traced, too: perhaps it comes to the point."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                self._use()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 3, -signal.SIGKILL, -signal.SIGTERM)

    def fds(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def leave(self) -> None:
        """Stop the handle: give up the seat."""
        self.pool.stop()


def _serve(manager: PoolManager, pipe: Connection, kind: type[Actions] = Actions) -> None:
    actions = kind(manager)
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(actions, name)(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send(answer)


class Puppet(Child):
    """A forked process that does what it is told."""

    def __init__(self, manager: PoolManager) -> None:
        self._pipe, theirs = Pipe()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                self._pipe.close()
                _serve(manager, theirs)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        theirs.close()
        super().__init__(pid)

    def tell(self, name: str, *args: Any) -> None:
        self._pipe.send((name, args))

    def answer(self, timeout: float = 25.0) -> Any:
        """What came of what it was told last."""
        assert self._pipe.poll(timeout), f"puppet {self.pid}: no answer in {timeout} s"
        good, value = self._pipe.recv()
        assert good, f"puppet {self.pid}: {value}"
        return value

    def ask(self, name: str, *args: Any) -> Any:
        self.tell(name, *args)
        return self.answer()

    def close(self) -> None:
        """Be gone, however it is."""
        self._pipe.close()
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.join()


@contextmanager
def crew(manager: PoolManager, count: int) -> Iterator[list[Puppet]]:
    """So many puppets, gone after the block."""
    with ExitStack() as stack:
        puppets = []
        for _ in range(count):
            puppet = Puppet(manager)
            stack.callback(puppet.close)
            puppets.append(puppet)
        yield puppets


@contextmanager
def watched(books: Books, judge: Judge | None, max_size: int) -> Iterator[None]:
    """Within the block, neither the ledger nor the server ever shows more than max_size."""
    with ExitStack() as stack:
        ledger = stack.enter_context(Watch(books))
        seen = stack.enter_context(judge.watch()) if judge is not None else None
        yield
    assert ledger.samples
    assert ledger.peak <= max_size, "more permits assigned than there are"
    if seen is not None:
        assert seen.peak <= max_size, "the server saw more than max_size"


def kill_manager(books: Books) -> float:
    """Kill the running manager; when."""
    pid = books.manager()
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def succeeded(books: Books, before: int, timeout: float = 10.0) -> int:
    """Wait for another manager than ``before``; its pid."""
    until(lambda: books.manager() != before and books.managed(), timeout)
    return books.manager()


def say(text: str) -> None:
    """A figure for whoever runs this, past pytest's capture."""
    print(text, file=sys.__stderr__, flush=True)
