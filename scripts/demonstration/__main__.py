"""One budget, several processes, watched while they work. `./scripts/demo` runs it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil
from rich.console import Console

from mppool import PoolManager, errors
from mppool.view.page import page
from mppool.view.processes import command_of
from mppool.view.recording import Recording
from scripts.demonstration import hosts
from scripts.demonstration.crew import Crew
from scripts.demonstration.display import Display
from scripts.demonstration.picture import draw
from scripts.demonstration.report import Verdict
from scripts.demonstration.server_count import QUERIES, ServerCount, labelled
from scripts.demonstration.timeline import Sample, Timeline
from scripts.demonstration.workload import Plan

SAMPLE_EVERY = 0.004  # seconds
RECORD_EVERY = 0.02  # seconds, for the report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--uri", help="the database (default: a SQLite file of its own)")
    parser.add_argument("--hosts", type=int, help="one budget over so many hosts of two processes each, on PostgreSQL")
    parser.add_argument("--cluster", metavar="URL", help="with --hosts: the engine (default: a Redis of its own)")
    parser.add_argument("--workers", type=int, default=4, help="processes, half sync and half async (default: 4)")
    jobs = "over all processes (default: 1000; with --hosts: 3000)"
    parser.add_argument("--jobs", type=int, help=jobs)
    parser.add_argument("--max-size", type=int, default=30, help="the budget, in connections (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="decides how long each job holds its connection")
    parser.add_argument("--hold", type=float, nargs=2, default=(0.1, 0.5), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--picture", default="demo-{pid}.svg", help="where the picture goes (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE", help="write what happened to this HTML file, as mppool report does")
    parser.add_argument("--no-live", action="store_true", help="a line each second instead of bars")
    options = parser.parse_args()
    options.jobs = options.jobs if options.jobs is not None else 3000 if options.hosts else 1000
    if options.hosts is None and options.cluster:
        parser.error("--cluster needs --hosts")
    if options.hosts is not None:
        if options.hosts < 1 or options.max_size <= options.hosts:
            parser.error("--hosts must be 1 or more, and --max-size more than that")
        if options.report or (options.uri and not options.uri.startswith("postgresql:")):
            parser.error("--hosts needs PostgreSQL, and writes no --report")
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


def run(options: argparse.Namespace, uri: str, console: Console, recording: Recording) -> tuple[Verdict, str]:
    plan = Plan.draw(options.jobs, options.workers, options.max_size, options.seed, *options.hold)
    name = f"mppool-demo-{os.getpid()}"
    provider = uri.partition(":")[0]
    server = ServerCount(uri, name).start() if provider in QUERIES else None
    crew = None
    try:
        with PoolManager(labelled(uri, name), max_size=plan.max_size) as manager:
            handles = {"sync": manager.pool(conn_timeout=60), "async": manager.async_pool(conn_timeout=60)}
            crew = Crew(plan, handles)
            crew.ready()
            start = crew.go()
            timeline = Timeline(start, crew.pids)
            with Display(console, plan, live=not options.no_live) as display:
                while crew.collect(SAMPLE_EVERY):
                    display.show(_look(manager, timeline, recording), crew.done)
                display.show(_look(manager, timeline, recording), crew.done, last=True)
            crew.dismiss()
    finally:
        if server:
            server.stop()
    reports = tuple(crew.reports[worker] for worker in range(len(plan.holds)))
    wall = max(report.finished for report in reports) - start
    return Verdict(plan, reports, timeline, server, wall), provider


def _look(manager: PoolManager, timeline: Timeline, recording: Recording) -> Sample:
    stats, now = manager.stats(), time.monotonic()
    recording.note(now, stats)
    return timeline.note(stats, now)


def main() -> int:
    options, console, begun = arguments(), Console(), time.strftime("%Y-%m-%d %H:%M:%S")
    if options.hosts is not None:
        return hosts.main(options, console)
    recording = Recording(RECORD_EVERY, command_of, psutil.pid_exists)
    with a_database(options.uri) as uri:
        try:
            verdict, provider = run(options, uri, console, recording)
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
    if options.report:
        with open(options.report, "w", encoding="utf-8") as file:
            file.write(page(recording, begun))
        console.print(f"report: {os.path.abspath(options.report)}", soft_wrap=True, highlight=False)
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
