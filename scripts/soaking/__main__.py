"""A chaos run that ends with a balance sheet. `./scripts/soak` runs it.

Workers borrow without pause, from threads and tasks; they are killed, terminated, stopped and continued, and forked;
the manager is killed, sometimes with a worker, sometimes its successor at once. With --faults, too: moments in which a
member or the manager can have no descriptor more (descriptors), hooks that raise, also what is no Exception (hooks),
signals whose handlers raise or borrow in the midst of a borrow (signals). The budget is resized, paused and drained.
In the end every permit, process, descriptor, connection and job is accounted for.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack

import psutil
from rich.console import Console

from mppool import PoolManager, errors
from scripts.soaking.conductor import Conductor, count_until_over
from scripts.soaking.databases import PROVIDERS, Server, Target, target
from scripts.soaking.faults import KINDS
from scripts.soaking.sheet import Jobs, Sheet

FINISH = 40.0  # seconds for the workers' last jobs
GONE = 5.0  # seconds until the server and the system have forgotten a run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="of chaos (default: 1)")
    parser.add_argument("--provider", choices=PROVIDERS, action="append", help="default: sqlite; may be repeated")
    parser.add_argument("--uri", help="the server's administrative uri (default: the usual local port)")
    parser.add_argument("--workers", type=int, default=6, help="processes, two of which survive (default: 6)")
    parser.add_argument("--max-size", type=int, default=8, help="the budget, in connections (default: 8)")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens to whom")
    parser.add_argument("--restart", action="store_true", help="end all of the server's connections now and then")
    parser.add_argument(
        "--faults", type=kinds, default=frozenset(), metavar="KIND,…", help=f"on purpose, of {', '.join(KINDS)}"
    )
    options = parser.parse_args()
    if options.minutes <= 0 or options.workers < 3 or options.max_size < 1:
        parser.error("--minutes must be more than 0, --workers 3 or more, --max-size 1 or more")
    options.provider = options.provider or ["sqlite"]
    if options.restart and "sqlite" in options.provider:
        parser.error("--restart needs a server: --provider postgresql or mysql")
    if "descriptors" in options.faults and not hasattr(resource, "prlimit"):
        parser.error("--faults descriptors needs Linux: another process's limit is lowered")
    return options


def kinds(text: str) -> frozenset[str]:
    """Kinds of faults, with commas between."""
    found = frozenset(text.split(","))
    if unknown := found.difference(KINDS):
        raise argparse.ArgumentTypeError(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return found


def hold_all(manager: PoolManager) -> int:
    """How many connections one process can have at once."""
    pool, had = manager.pool(conn_timeout=GONE), 0
    with ExitStack() as stack:
        try:
            for _ in range(manager.max_size):
                stack.enter_context(pool.connection()).query_first("SELECT 1 AS a")
                had += 1
        except (errors.PoolError, errors.PySQLXError):
            pass
    return had


def processes(folder: str) -> list[str]:
    """Those of this run that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(folder in part for part in process.cmdline()):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        except psutil.Error:
            continue
    return found + [str(child) for child in psutil.Process().children(recursive=True)]


def gone(count: object) -> int:
    """Wait until there is nothing left of something; how much there is."""
    deadline = time.monotonic() + GONE
    while (left := count()) and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)
    return left  # type: ignore[no-any-return]


def soak(place: Target, options: argparse.Namespace, console: Console) -> Sheet:
    with tempfile.TemporaryDirectory(prefix="mppool-soak-") as folder:
        runtime, journals = os.path.join(folder, "runtime"), os.path.join(folder, "journals")
        os.mkdir(runtime, 0o700)
        os.mkdir(journals)
        os.environ["MPPOOL_RUNTIME_DIR"] = runtime
        over, seen = mmap.mmap(-1, 1), mmap.mmap(-1, mmap.PAGESIZE)
        with PoolManager(place.uri, place.max_size) as manager:
            counter = os.fork()
            if not counter:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    count_until_over(place, manager, over, seen)
                finally:
                    os._exit(0)
            conductor = Conductor(place, manager, options.workers, options.seed, journals, options.faults)
            try:
                conductor.run(
                    options.minutes * 60,
                    options.restart,
                    lambda text: console.print(text, highlight=False, soft_wrap=True),
                )
            except KeyboardInterrupt:
                console.print("interrupted; the sheet of what there was:")
            wrong = conductor.finish(FINISH)
            had = hold_all(manager)
            over[0] = 1
            os.waitpid(counter, 0)
        left_connections = 0
        if place.admin:
            server = Server(place.admin)
            left_connections = gone(lambda: len(server.ask(place.listing)))
            server.close()
        gone(lambda: len(processes(runtime)))
        left_files = [os.path.join(where, name) for where, _, names in os.walk(runtime) for name in names]
        peaks = memoryview(seen).cast("q").tolist()[:3]
        return Sheet(
            place.provider, place.max_size, options.restart, Jobs.read(journals),
            peaks[0] if place.admin else None, peaks[1], peaks[2], options.workers, had, left_connections,
            wrong + processes(runtime), left_files, conductor.usage, conductor.chaos,
        )  # fmt: skip


def main() -> None:
    options, console, good = arguments(), Console(), True
    # That the manager is gone is no news here, and neither is a fault on purpose.
    logging.basicConfig(level=logging.CRITICAL if options.faults else logging.ERROR)
    for provider in options.provider:
        with target(provider, options.uri, options.max_size) as place:
            console.print(f"{provider}: {options.minutes:g} min, {options.workers} workers, {options.max_size} permits")
            sheet = soak(place, options, console)
        sheet.show(console)
        good = good and sheet.good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
