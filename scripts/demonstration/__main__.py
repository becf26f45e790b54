"""One budget, several processes, watched while they work. `./scripts/demo` runs it."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from scripts.demonstration.display import Display
from scripts.demonstration.picture import draw
from scripts.demonstration.report import Verdict
from scripts.demonstration.server_count import QUERIES, ServerCount, labelled
from scripts.demonstration.timeline import Timeline
from scripts.demonstration.workload import Plan, Report, work

SAMPLE_EVERY = 0.004  # seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--uri", help="the database (default: a SQLite file of its own)")
    parser.add_argument("--workers", type=int, default=4, help="processes, half sync and half async (default: 4)")
    parser.add_argument("--jobs", type=int, default=1000, help="over all processes (default: 1000)")
    parser.add_argument("--max-size", type=int, default=30, help="the budget, in connections (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="decides how long each job holds its connection")
    parser.add_argument("--hold", type=float, nargs=2, default=(0.1, 0.5), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--picture", default="demo-{pid}.svg", help="where the picture goes (default: %(default)s)")
    parser.add_argument("--no-live", action="store_true", help="a line each second instead of bars")
    options = parser.parse_args()
    for name in ("workers", "jobs", "max_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return options


@contextlib.contextmanager
def a_database(uri: str | None) -> Iterator[str]:
    if uri:
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="mppool-demo-") as folder:
        yield f"sqlite:{folder}/demo.db"


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

    def go(self) -> float:
        """Wait until all are ready, give the word, and return the moment."""
        for line in self._lines:
            line.recv()
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


def run(options: argparse.Namespace, uri: str, console: Console) -> tuple[Verdict, str]:
    plan = Plan.draw(options.jobs, options.workers, options.max_size, options.seed, *options.hold)
    name = f"mppool-demo-{os.getpid()}"
    provider = uri.partition(":")[0]
    server = ServerCount(uri, name).start() if provider in QUERIES else None
    crew = None
    try:
        with PoolManager(labelled(uri, name), max_size=plan.max_size) as manager:
            handles = {"sync": manager.pool(conn_timeout=60), "async": manager.async_pool(conn_timeout=60)}
            crew = Crew(plan, handles)
            start = crew.go()
            timeline = Timeline(start, crew.pids)
            with Display(console, plan, live=not options.no_live) as display:
                while crew.collect(SAMPLE_EVERY):
                    display.show(timeline.note(manager.stats()), crew.done)
                display.show(timeline.note(manager.stats()), crew.done, last=True)
            crew.dismiss()
    finally:
        if server:
            server.stop()
    reports = tuple(crew.reports[worker] for worker in range(len(plan.holds)))
    wall = max(report.finished for report in reports) - start
    return Verdict(plan, reports, timeline, server, wall), provider


def main() -> int:
    options, console = arguments(), Console()
    with a_database(options.uri) as uri:
        try:
            verdict, provider = run(options, uri, console)
        except KeyboardInterrupt:
            console.print("interrupted")
            return 130
        except (ValueError, TypeError, errors.PoolError) as error:
            console.print(f"[red]{type(error).__name__}: {error}", highlight=False, soft_wrap=True)
            return 2
    verdict.print(console, provider)
    if not verdict.borrows:
        return verdict.exit_code
    path = os.path.abspath(options.picture.format(pid=os.getpid()))
    plan = verdict.plan
    title = f"{plan.jobs} jobs, {len(plan.holds)} processes, never more than {verdict.timeline.peak} connections"
    ratio = verdict.wall / plan.floor
    subtitle = f"{provider} · {verdict.wall:.2f} s, {ratio:.3f} × the floor · seed {options.seed}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(draw(verdict.timeline, plan, title, subtitle))
    console.print(f"picture: {path}", soft_wrap=True, highlight=False)
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
