"""One budget, several hosts, one of which is killed and comes back: `scripts/demo --hosts N`.

Each host is a program with a runtime folder of its own, so on this one machine they know as little of each other as on
many. The database is PostgreSQL, the engine Redis; without an address both are servers of the demo's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

from scripts.demonstration.display import Display
from scripts.demonstration.picture import draw
from scripts.demonstration.report import percentile
from scripts.demonstration.server_count import ServerCount, labelled
from scripts.demonstration.timeline import Counts, Sample, Timeline
from scripts.demonstration.workload import AT_ONCE, Plan, Report

SAMPLE_EVERY = 0.02  # seconds
WORKERS = 2  # processes of each host, one sync and one async
KILL_AT, BACK_AFTER = 0.25, 6.0  # of the shortest possible time; seconds
KEPT = 1  # permits for the judge's own connection, which jobs cannot have
PATIENCE = 60.0  # seconds until all hosts are ready


@dataclass(frozen=True)
class HostPlan(Plan):
    """The jobs of each host, instead of each process."""

    @property
    def floor(self) -> float:
        usable = min(self.max_size - KEPT, AT_ONCE * WORKERS * len(self.holds))
        return max(sum(map(sum, self.holds)) / usable, max((max(h, default=0.0) for h in self.holds), default=0.0))

    def kind(self, worker: int) -> str:
        return f"{WORKERS} processes"

    def label(self, worker: int) -> str:
        return f"host {worker + 1}"


class Host:
    """One host as the demo sees it.

    Args:
        number: from 0.
        folder: its runtime folder is made there.
        task: what `scripts.demonstration.host` is told, without the jobs.
        holds: the seconds of its jobs.
    """

    def __init__(self, number: int, folder: str, task: dict[str, Any], holds: tuple[float, ...]) -> None:
        self._runtime, self._task, self._holds = os.path.join(folder, f"host-{number + 1}"), task, holds
        os.mkdir(self._runtime, 0o700)
        self.counts, self.done, self.before = Counts(), 0, 0
        self.report: Report | None = None
        self.comes_back = False
        self.start()

    def start(self) -> None:
        """Begin with the jobs that are left."""
        self.before, self.done, self.comes_back = self.before + self.done, 0, False
        self._heard = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.demonstration.host"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "MPPOOL_RUNTIME_DIR": self._runtime},
        )  # fmt: skip
        left = self._holds[self.before :]
        self.tell(json.dumps({**self._task, "holds": [left[part::WORKERS] for part in range(WORKERS)]}))
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._hear(json.loads(line))
        if process is self.process:
            self.counts = Counts()
            self._heard.set()

    def _hear(self, said: dict[str, Any]) -> None:
        if "counts" in said:
            self.counts, self.done = Counts(*said["counts"]), sum(said["done"])
        elif "waits" in said:
            self.report = Report(said["waits"], said["errors"], said["finished"])
        else:
            self._heard.set()

    def ready(self) -> bool:
        """Whether it is, after a while."""
        return self._heard.wait(PATIENCE) and self.process.poll() is None

    @property
    def is_over(self) -> bool:
        """It has done its jobs, or ended and will not come back."""
        return self.report is not None or (self.process.poll() is not None and not self.comes_back)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """All of its processes at once: the program, its workers, its manager and what is beside that."""
        while found := self._processes():
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.wait()
        self.counts = Counts()

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                here = process.environ().get("MPPOOL_RUNTIME_DIR") == self._runtime
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> None:
        """Let it leave; kill it if it does not."""
        self.tell("thanks")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Outcome:
    """All that a run came to.

    Args:
        marks: what happened when, in seconds since the start.
        back: seconds from the kill until all permits were in use again; None: it did not come to it.
    """

    plan: HostPlan
    timeline: Timeline
    server: ServerCount
    reports: list[Report]
    done: list[int]
    wall: float
    marks: list[tuple[float, str]] = field(default_factory=list)
    back: float | None = None

    @property
    def errors(self) -> list[str]:
        return [error for report in self.reports for error in report.errors]

    @property
    def exit_code(self) -> int:
        # Not the ledgers: they are read one after another, and that of a killed host shows what it had.
        within = self.server.peak <= self.plan.max_size and not self.server.trouble
        return 0 if within and sum(self.done) >= self.plan.jobs and not self.errors else 1

    def print(self, console: Console, engine: str) -> None:
        hosts = Table(title="Hosts", title_justify="left")
        for heading in ("host", "jobs", "errors", "wait p50", "p95", "p99", "longest"):
            hosts.add_column(heading, justify="left" if heading == "host" else "right")
        for number, report in enumerate(self.reports):
            times = [f"{percentile(report.waits, percent):.2f} s" for percent in (50, 95, 99, 100)]
            hosts.add_row(self.plan.label(number), f"{self.done[number]}", f"{len(report.errors)}", *times)
        console.print(hosts)
        whole = Table(show_header=False, title="The whole", title_justify="left")
        whole.add_column(style="bright_black")
        whole.add_column()
        for what, found in self._facts(engine):
            whole.add_row(what, found)
        console.print(whole)
        for error in sorted(set(self.errors))[:5]:
            console.print(f"[red]{error}", highlight=False)

    def _facts(self, engine: str) -> Iterator[tuple[str, str]]:
        plan, server = self.plan, self.server
        yield "engine", engine
        yield "jobs done", f"{sum(self.done)} of {plan.jobs}, {len(self.errors)} errors"
        yield "wall time", f"{self.wall:.2f} s = {self.wall / plan.floor:.3f} × the floor of {plan.floor:.2f} s"
        yield "budget", f"{plan.max_size} connections over {len(plan.holds)} hosts, {KEPT} of them the judge's"
        yield "most ever open, by the server", server.trouble or f"{server.peak} in {server.samples} samples"
        looks = len(self.timeline.samples)
        yield "… by the hosts' ledgers, not of one moment", f"{self.timeline.peak} in {looks} samples"
        for at, what in self.marks:
            yield what, f"at {at:.1f} s"
        if self.marks:
            back = "not in this run" if self.back is None else f"{self.back:.1f} s after that"
            yield "its permits were in use again", back


class Run:
    """One run.

    Args:
        uri: of the database; cluster: of the engine.
    """

    def __init__(self, options: argparse.Namespace, uri: str, cluster: str, folder: str) -> None:
        drawn = Plan.draw(options.jobs, options.hosts, options.max_size, options.seed, *options.hold)
        self.plan, self._live = HostPlan(drawn.max_size, drawn.holds), not options.no_live
        name = f"mppool-demo-{os.getpid()}"
        self._server = ServerCount(uri, name)
        task = {"uri": labelled(uri, name), "max_size": options.max_size, "name": name, "cluster": cluster}
        self._hosts = [Host(number, folder, task, holds) for number, holds in enumerate(self.plan.holds)]
        self._marks: list[tuple[float, str]] = []
        self._killed_at: float | None = None
        self._returned = False
        self._back: float | None = None

    def run(self, console: Console) -> Outcome | None:
        """None: a host did not begin."""
        try:
            if not all(host.ready() for host in self._hosts):
                return None
            self._server.start()
            try:
                timeline, wall = self._work(console)
            finally:
                self._server.stop()
            for host in self._hosts:
                host.end()
        finally:
            for host in self._hosts:
                host.kill()
        reports = [host.report or Report(errors=["the host ended before its jobs did"]) for host in self._hosts]
        done = [host.before + host.done for host in self._hosts]
        return Outcome(self.plan, timeline, self._server, reports, done, wall, self._marks, self._back)

    def _work(self, console: Console) -> tuple[Timeline, float]:
        start = time.monotonic()
        for host in self._hosts:
            host.tell("go")
        timeline = Timeline(start, ())
        with Display(console, self.plan, live=self._live) as display:
            while not all(host.is_over for host in self._hosts):
                time.sleep(SAMPLE_EVERY)
                sample = timeline.add([host.counts for host in self._hosts])
                self._steer(sample)
                display.show(sample, [host.before + host.done for host in self._hosts])
            display.show(sample, [host.before + host.done for host in self._hosts], last=True)
        return timeline, max((host.report.finished for host in self._hosts if host.report), default=start) - start

    def _steer(self, sample: Sample) -> None:
        """Kill the second host on the way, have it back, and note when its permits are."""
        victim = self._hosts[1 % len(self._hosts)]
        if self._killed_at is None:
            if sample.at >= KILL_AT * self.plan.floor and not victim.is_over:
                victim.comes_back = True
                victim.kill()
                self._killed_at = sample.at
                self._marks.append((sample.at, f"{self.plan.label(1 % len(self._hosts))} killed"))
        elif not self._returned and sample.at >= self._killed_at + BACK_AFTER:
            self._returned = True
            victim.start()
            threading.Thread(target=self._let_go, args=(victim,), daemon=True).start()
            self._marks.append((sample.at, f"{self.plan.label(1 % len(self._hosts))} started again"))
        elif self._back is None and sample.open >= self.plan.max_size - KEPT:
            self._back = sample.at - self._killed_at

    @staticmethod
    def _let_go(host: Host) -> None:
        if host.ready():
            host.tell("go")


@contextlib.contextmanager
def servers(options: argparse.Namespace, folder: str) -> Iterator[tuple[str, str]]:
    """The uri of the database and the url of the engine: those that are given, or servers of the demo's own.

    Raises: NoServer.
    """
    import psycopg

    from tests.private_servers import Postgres, Redis

    with contextlib.ExitStack() as stack:
        uri, cluster = options.uri, options.cluster
        if not uri:
            server = Postgres(os.path.join(folder, "postgres"), lambda uri: psycopg.connect(uri).close())
            server.start()
            stack.callback(server.stop)
            uri = server.uri
        if not cluster:
            redis = Redis(os.path.join(folder, "redis"))
            redis.start()
            stack.callback(redis.stop)
            cluster = redis.url
        yield uri, cluster


def main(options: argparse.Namespace, console: Console) -> int:
    from tests.private_servers import NoServer

    with tempfile.TemporaryDirectory(prefix="mppool-demo-") as folder:
        try:
            with servers(options, folder) as (uri, cluster):
                outcome = Run(options, uri, cluster, folder).run(console)
        except NoServer as error:
            console.print(f"skipped: {error}", highlight=False, soft_wrap=True)
            return 0
        except KeyboardInterrupt:
            console.print("interrupted")
            return 130
    if outcome is None:
        console.print("[red]a host did not begin: see above")
        return 2
    outcome.print(console, f"{urlsplit(cluster).scheme}, {'given' if options.cluster else 'of its own'}")
    _draw(outcome, options, console)
    return outcome.exit_code


def _draw(outcome: Outcome, options: argparse.Namespace, console: Console) -> None:
    plan, path = outcome.plan, os.path.abspath(options.picture.format(pid=os.getpid()))
    title = f"{plan.jobs} jobs, {len(plan.holds)} hosts, never more than {outcome.server.peak} connections"
    subtitle = f"postgresql · {outcome.wall:.2f} s, {outcome.wall / plan.floor:.3f} × the floor · seed {options.seed}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(draw(outcome.timeline, plan, title, subtitle, outcome.marks))
    console.print(f"picture: {path}", soft_wrap=True, highlight=False)
