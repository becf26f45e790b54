"""The worker processes of one host."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import time
from typing import Any

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync
from scripts.demonstration.workload import Plan, Report, work


class Crew:
    """The worker processes, forked from here with the handles they use."""

    def __init__(self, plan: Plan, handles: dict[str, PySQLXEnginePoolSync | PySQLXEnginePool]) -> None:
        fork = multiprocessing.get_context("fork")
        self.done: Any = fork.RawArray("L", len(plan.holds))
        self.reports: dict[int, Report] = {}
        self._lines, self._processes = [], []
        for worker, holds in enumerate(plan.holds):
            ours, theirs = fork.Pipe()
            kind = plan.kind(worker)
            process = fork.Process(
                target=work, args=(worker, kind, handles[kind], holds, self.done, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid or 0 for process in self._processes)

    def ready(self) -> None:
        """Wait until all are."""
        for line in self._lines:
            line.recv()

    def go(self) -> float:
        """Give the word, and return the moment."""
        start = time.monotonic()
        for line in self._lines:
            line.send("go")
        return start

    def collect(self, wait: float) -> bool:
        """Wait up to `wait` seconds for reports; False when there is none left to wait for."""
        open_lines = [line for worker, line in enumerate(self._lines) if worker not in self.reports]
        for line in multiprocessing.connection.wait(open_lines, wait):
            worker = self._lines.index(line)
            try:
                self.reports[worker] = line.recv()
            except EOFError:
                self._processes[worker].join()
                died = f"process {worker + 1} died with exit code {self._processes[worker].exitcode}"
                self.reports[worker] = Report(errors=[died], finished=time.monotonic())
        return len(self.reports) < len(self._lines)

    def dismiss(self) -> None:
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send("thanks")
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
