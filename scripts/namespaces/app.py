"""One process of a host: callers that borrow and ask, and a journal of what became of it.

    python -m scripts.namespaces.app work TASK     until a line comes in; TASK is the path of a JSON file
    python -m scripts.namespaces.app hold TASK     says how many connections it can have at once

A line of the journal for each thing, with the time of the monotonic clock: ``n`` (so many jobs were done, and the
longest wait of them), ``x`` (an error: when its job began, and what was said), ``end`` (all callers have ended, and how
often the server refused a connection because the role had all).
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

from mppool import PySQLXEnginePoolSync, errors

CALLERS = 8
PATIENCE = 60.0  # seconds that a caller waits
NOTE_EVERY = 0.5


def pool_of(task: dict[str, Any]) -> PySQLXEnginePoolSync:
    """The host's handle. Without an engine each host has a budget of its own."""
    more = {"cluster": task["cluster"]} if task["cluster"] else {}
    return PySQLXEnginePoolSync(task["uri"], 0, task["max_size"], PATIENCE, name=task["name"], **more)


class App:
    """The callers of one process."""

    def __init__(self, task: dict[str, Any]) -> None:
        path = os.path.join(task["journals"], f"{task['host']}-{os.getpid()}-{time.monotonic_ns()}")
        self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._pool = pool_of(task)
        self._over, self._busy, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._done, self._longest = 0, 0.0

    def note(self, kind: str, *more: object) -> None:
        line = " ".join(map(str, (kind, f"{time.monotonic():.3f}", *more)))
        os.write(self._journal, f"{line}\n".encode())  # one call: whole or not at all

    def run(self) -> None:
        # the host's other processes start at the same time, and the way may be cut just now
        while not self._over.is_set():
            try:
                self._pool.start()
                break
            except errors.PoolError as error:
                self.note("x", f"{time.monotonic():.3f}", "start:", type(error).__name__, _one_line(error))
                time.sleep(0.2)
        callers = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        for each in (*callers, threading.Thread(target=self._vary, daemon=True)):
            each.start()
        threading.Thread(target=self._count, daemon=True).start()
        sys.stdin.readline()
        self._over.set()
        self._busy.set()
        for each in callers:
            each.join()
        self._note_count()
        self.note("end", self._pool.stats().connections_refused)
        self._pool.stop()

    def _vary(self) -> None:
        """This process is at work for a while, and has nothing to do for a while, so that permits must move."""
        while not self._over.is_set():
            self._busy.set()
            time.sleep(random.uniform(0.5, 4.0))
            self._busy.clear()
            time.sleep(random.uniform(0.0, 2.0))

    def _count(self) -> None:
        while True:
            time.sleep(NOTE_EVERY)
            self._note_count()

    def _note_count(self) -> None:
        with self._lock:
            done, longest, self._done, self._longest = self._done, self._longest, 0, 0.0
        self.note("n", done, f"{longest:.3f}")

    def _call(self, number: int) -> None:
        while not self._over.is_set():
            self._busy.wait()
            began = time.monotonic()
            try:
                self._job(number)
            except Exception as error:
                self.note("x", f"{began:.3f}", type(error).__name__, _one_line(error))
                time.sleep(0.05)
            time.sleep(random.uniform(0.0, 0.03))

    def _job(self, number: int) -> None:
        began, query = time.monotonic(), random.uniform(0.002, 0.02)
        with self._pool.connection() as connection:
            waited = time.monotonic() - began
            row = connection.query_first(f"SELECT {number} AS a FROM pg_sleep({query:.3f})")
            assert row.a == number, f"{row} instead of {number}"
        with self._lock:
            self._done, self._longest = self._done + 1, max(self._longest, waited)


def hold(task: dict[str, Any], patience: float = 45.0) -> int:
    """How many connections this process can have at once, with as many callers as there are permits and two more."""
    held, lock, over = [0], threading.Lock(), threading.Event()

    def caller() -> None:
        try:
            with pool.connection(patience + 5.0) as connection:
                connection.query_first("SELECT 1 AS a")
                with lock:
                    held[0] += 1
                over.wait()
        except Exception:
            pass  # it had to go without

    with pool_of(task) as pool:
        callers = [threading.Thread(target=caller) for _ in range(task["max_size"] + 2)]
        for each in callers:
            each.start()
        deadline = time.monotonic() + patience
        while held[0] < task["permits"] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # one too many would come now
        had = held[0]
        over.set()
        for each in callers:
            each.join()
    return had


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    cause = error.__cause__
    return f"{text} << {type(cause).__name__}: {' '.join(str(cause).split())}" if cause is not None else text


def main() -> None:
    what, path = sys.argv[1:]
    with open(path) as file:
        task = json.load(file)
    if what == "hold":
        print(hold(task), flush=True)
    else:
        App(task).run()


if __name__ == "__main__":
    main()
