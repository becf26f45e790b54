"""One budget over several hosts under chaos, that ends with a balance sheet. `./scripts/soak --hosts` runs it.

Each host is a network namespace of this machine, with three processes of eight callers. The database and the engine are
servers of its own in another namespace; the role that all use has a CONNECTION LIMIT of exactly the budget. At random a
host is cut off from the engine, from the database or from both; a manager, an agent, both, a process, a whole host or
the engine is killed. Needs root, ip and nft; everything is torn down at the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from inspect import signature

from rich.console import Console

from mppool import PySQLXEnginePoolSync
from scripts.namespaces.conductor import Conductor, HostUnderTest
from scripts.namespaces.network import HostNamespace, Network, NoNetwork, check
from scripts.namespaces.servers import ENGINES, NAME, EngineServer, Judge
from scripts.namespaces.sheet import Journals, Sheet
from scripts.namespaces.watch import Watch

FIRST = 60.0  # seconds until hosts have begun, and their first epoch is learned
CALM = 25.0  # seconds without events at the end: a lease, a judgement and what follows
FINISH = 90.0  # seconds for the last jobs
GONE = 40.0  # seconds until nothing is left: hosts whose manager was killed are judged
KEPT = 1  # permits that are kept for the judge's own connection


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak --hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of chaos (default: 5)")
    engines = (*ENGINES, "none")
    parser.add_argument(
        "--engine", choices=engines, action="append", help=f"default: {', '.join(ENGINES)}; none: separate budgets"
    )
    parser.add_argument("--count", type=int, default=3, help="hosts (default: 3)")
    parser.add_argument("--max-size", type=int, default=12, help="the budget, in connections (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens to whom, and when")
    every = "seconds between events, on average (default: 6); at 3 learning, which takes 12, seldom comes to its end"
    parser.add_argument("--every", type=float, default=6.0, help=every)
    parser.add_argument("--keep", metavar="FOLDER", help="leave logs and journals there")
    parser.add_argument("--inside", metavar="NAMESPACES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.minutes <= 0 or options.count < 1 or options.max_size <= options.count:
        parser.error("--minutes must be more than 0, --count 1 or more, and --max-size more than --count")
    options.engine = options.engine or [*ENGINES]
    return options


def outside(options: argparse.Namespace) -> int:
    """Make the namespaces, have the run in the hub's, and remove them, whatever becomes of it."""
    check()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Network(options.count) as network:
        names = ",".join(host.name for host in network.hosts)
        command = [sys.executable, "-m", "scripts.namespaces", *sys.argv[1:], "--inside", names]
        child = subprocess.Popen(network.hub.command(*command))
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child was interrupted, too, and says what there was
            return child.wait()


@contextmanager
def folder_of(engine: str, keep: str | None) -> Iterator[str]:
    """Where a run has its files; they stay if they are to be kept."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="mppool-soak-") as folder:
            yield folder
        return
    yield tempfile.mkdtemp(prefix=f"{engine}-", dir=keep)


def inside(options: argparse.Namespace, console: Console) -> int:
    good = True
    for engine in options.engine:
        console.print(f"{engine}: {options.minutes:g} min, {options.count} hosts, {options.max_size} permits")
        with folder_of(engine, options.keep) as folder:
            sheet = soak(engine, options, folder, console)
        sheet.show(console)
        good = good and sheet.good
    return 0 if good else 1


def soak(kind: str, options: argparse.Namespace, folder: str, console: Console) -> Sheet:
    os.chmod(folder, 0o755)  # the servers run as another user
    journals = os.path.join(folder, "journals")
    os.mkdir(journals)
    namespaces = [HostNamespace(name) for name in options.inside.split(",")]
    with ExitStack() as stack:
        judge = stack.enter_context(closing(Judge(os.path.join(folder, "database"), options.max_size)))
        engine = None
        if kind != "none":
            engine = stack.enter_context(closing(EngineServer(kind, os.path.join(folder, "engine"))))
        size = options.max_size if engine else options.max_size // options.count
        permits = options.max_size - KEPT if engine else size * options.count
        task = {
            "uri": judge.uri, "name": NAME, "max_size": size, "cluster": engine.url if engine else "",
            "permits": permits if engine else size, "journals": journals,
        }  # fmt: skip
        hosts = [HostUnderTest(n + 1, space, folder, task) for n, space in enumerate(namespaces)]
        for host in hosts:
            stack.callback(host.kill)
            host.start()
        watch = Watch(judge, engine, permits)
        stack.callback(watch.end)
        conductor = Conductor(
            hosts,
            engine,
            options.seed,
            options.every,
            lambda text: console.print(text, highlight=False, soft_wrap=True),
        )
        try:
            if not watch.at_work(FIRST):
                watch.trouble.append(f"no host had a connection after {FIRST:g} s")
            conductor.run(options.minutes * 60)
            time.sleep(CALM if engine else 1.0)
        except KeyboardInterrupt:
            console.print("interrupted; the sheet of what there was:")
            conductor.run(0.0)
        left = [text for host in hosts for text in host.finish(FINISH)]
        had = _hold(hosts[0]) + (size * (options.count - 1) if engine is None else 0)
        left += _left(judge, engine, hosts)
        watch.end()
        return Sheet(
            kind, options.max_size, permits, Journals.read(journals), conductor.events, watch.peaks, had,
            judge.refused(), left + watch.trouble,
        )  # fmt: skip


def _hold(host: HostUnderTest) -> int:
    process = host.run("hold", stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=2 * FINISH)
    return int(said or b"0")


def _left(judge: Judge, engine: EngineServer | None, hosts: list[HostUnderTest]) -> list[str]:
    """What is still there although all have ended, after a while."""
    deadline = time.monotonic() + GONE
    while (left := _there(judge, engine, hosts)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _there(judge: Judge, engine: EngineServer | None, hosts: list[HostUnderTest]) -> list[str]:
    found = [f"host {host.number}: process {pid}" for host in hosts for pid in host.namespace.pids()]
    if count := sum(judge.connections()):
        found.append(f"{count} connections at the server")
    return found


def main() -> int:
    options, console = arguments(), Console()
    logging.basicConfig(level=logging.CRITICAL)
    if "cluster" not in signature(PySQLXEnginePoolSync).parameters and options.engine != ["none"]:
        console.print("this mppool has no budgets over hosts: --engine none")
        return 2
    try:
        return inside(options, console) if options.inside else outside(options)
    except NoNetwork as error:
        console.print(f"[red]{error}", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
