"""Threads that look, all the time, at what must not be more than it may: the role's connections, the rows' credit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mppool.cluster.contract import EngineError
from scripts.namespaces.servers import EngineServer, Judge
from scripts.namespaces.sheet import Peaks

EVERY, LOOK_EVERY = 0.004, 0.05


class Watch:
    """
    Args:
        permits: the most connections of hosts, and credit, that there may be.
        engine: None: there is none.
    """

    def __init__(self, judge: Judge, engine: EngineServer | None, permits: int) -> None:
        self.peaks, self._over = Peaks(), threading.Event()
        self._judge, self._engine, self._permits = judge, engine, permits
        self.trouble: list[str] = []
        work = [self._count] if engine is None else [self._count, self._look]
        self._threads = [threading.Thread(target=self._carefully, args=(each,)) for each in work]
        for thread in self._threads:
            thread.start()

    def _carefully(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.trouble.append(f"the watch ended: {type(error).__name__}: {error}")

    def _count(self) -> None:
        peaks, last = self.peaks, time.monotonic()
        while not self._over.wait(EVERY):
            found, judging = self._judge.connections()
            last = time.monotonic() if found else last
            peaks.nobody = max(peaks.nobody, time.monotonic() - last)
            peaks.connections, peaks.judges = max(peaks.connections, found), max(peaks.judges, judging)
            peaks.samples += 1
            if found > self._permits:
                peaks.doubts.append(f"{time.monotonic():.2f}: {found} connections of {self._permits}, {judging} judges")

    def _look(self) -> None:
        assert self._engine is not None
        client, peaks = self._engine.client(), self.peaks
        while not self._over.wait(LOOK_EVERY):
            try:
                state = client.read()
            except EngineError:
                continue  # it is dead just now
            total = sum(row.credit for row in state.rows.values())
            peaks.credits, peaks.looks = max(peaks.credits, total), peaks.looks + 1
            if total > self._permits:
                peaks.doubts.append(f"{time.monotonic():.2f}: credit {total} of {self._permits}: {state}")
        client.close()

    def at_work(self, patience: float) -> bool:
        """Whether hosts have a connection, after a while."""
        deadline = time.monotonic() + patience
        while not self.peaks.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.peaks.connections > 0

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
