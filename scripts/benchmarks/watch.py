"""What it costs to be watched: a borrow's part, a scrape of 100 processes, `mppool top` on 64.

``borrow``: borrow and give back on one thread. ``unrecorded``: the same with the lines that record it taken out of the
package's source. ``with places``: with ``leak_threshold``, which notes where each borrow is made. ``scrape``: the text
that `mppool metrics` prints, of a budget of 100 processes that have all borrowed. ``top``: the share of a core that
`mppool top` takes, with two pictures a second, on a terminal of 160 columns and 50 lines.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from scripts.benchmarks.contract import Benchmark, Sample, Setting

TIMES, BATCHES = 4000, 9
SCRAPES, SCRAPED, SHOWN = 50, 100, 64
STARTS, WATCHED = 3.0, 15.0  # seconds
RECORDING = (
    "slot.lent_at = monotonic()",
    "self.at_once += 1",
    "self.uses.append(now - slot.lent_at)",
    "if now > self.flush_at:\n        self.recorder.flush(now)",
)

# -- a borrow ------------------------------------------------------------------------------------------------------


def _batch(pool: Any) -> float:
    """Microseconds of a borrow."""
    start = time.perf_counter()
    for _ in range(TIMES):
        with pool.connection():
            pass
    return (time.perf_counter() - start) / TIMES * 1e6


def _unrecorded(lending: Any) -> type[Any]:
    """`Lending` without the lines that record a borrow. Raises: ValueError: they are not there any more."""
    changed: dict[str, Any] = {}
    left = list(RECORDING)
    for name in ("borrow", "give_back"):
        source = textwrap.dedent(inspect.getsource(getattr(lending.Lending, name)))
        for line in [line for line in left if line in source]:
            source = source.replace(line, "pass", 1)
            left.remove(line)
        exec(source, vars(lending), changed)
    if left:
        raise ValueError(f"not found: {left}")
    return type("Lending", (), changed)


def _borrows(setting: Setting) -> Sample:
    from mppool import PoolManager
    from mppool.process import lending

    plain: Any = lending.Lending
    usual = {name: getattr(plain, name) for name in ("borrow", "give_back")}
    bare = {name: getattr(_unrecorded(lending), name) for name in usual}
    times: dict[str, list[float]] = {"borrow": [], "unrecorded": [], "with places": []}
    with PoolManager(setting.sqlite_uri, 4) as manager, PoolManager(setting.sqlite_uri, 4) as other:
        pools = {"borrow": manager.pool(min_size=1), "with places": other.pool(min_size=1, leak_threshold=60.0)}
        pools["unrecorded"] = pools["borrow"]
        for pool in pools.values():
            _batch(pool)
        for _ in range(BATCHES):
            for name, pool in pools.items():
                for method, function in (bare if name == "unrecorded" else usual).items():
                    setattr(plain, method, function)
                times[name].append(_batch(pool))
        for method, function in usual.items():
            setattr(plain, method, function)
    return {name: statistics.median(each) for name, each in times.items()}


# -- those who look ------------------------------------------------------------------------------------------------


@contextmanager
def _members(manager: Any, count: int) -> Iterator[None]:
    """So many processes that have borrowed, and stay until the end of the block."""
    pool, over = manager.pool(), os.pipe()
    ready = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                os.close(over[1])
                with pool.connection() as conn:
                    conn.query_first("SELECT 1 AS a")
                os.write(ready[1], b"!")
                os.read(over[0], 1)
            finally:
                os._exit(0)
        pids.append(pid)
        os.read(ready[0], 1)
    try:
        yield
    finally:
        os.close(over[1])
        for pid in pids:
            os.waitpid(pid, 0)
        for fd in (over[0], *ready):
            os.close(fd)


def _scrape(setting: Setting) -> Sample:
    from prometheus_client import CollectorRegistry, generate_latest

    from mppool import PoolManager
    from mppool.metrics.prometheus import BudgetCollector

    with PoolManager(setting.sqlite_uri, 8) as manager, _members(manager, SCRAPED):
        registry, wall, busy = CollectorRegistry(), [], []
        registry.register(BudgetCollector(manager.name))
        for _ in range(SCRAPES):
            start, used = time.perf_counter(), time.process_time()
            generate_latest(registry)
            wall.append((time.perf_counter() - start) * 1e3)
            busy.append((time.process_time() - used) * 1e3)
    return {"scrape": statistics.median(wall), "scrape, processor": statistics.median(busy)}


def _top(setting: Setting) -> Sample:
    from mppool import PoolManager

    with PoolManager(setting.sqlite_uri, 8, "bench-watch") as manager, _members(manager, SHOWN):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        command = [sys.executable, "-m", "mppool", "top", manager.name]
        with subprocess.Popen(command, stdin=slave, stdout=slave, env={**os.environ, "TERM": "xterm-256color"}) as top:
            os.close(slave)
            reader = threading.Thread(target=_swallow, args=(master,))
            reader.start()
            time.sleep(STARTS)
            process = psutil.Process(top.pid)
            before = process.cpu_times()
            time.sleep(WATCHED)
            after = process.cpu_times()
            os.write(master, b"q")
            top.wait(10)
        reader.join()
        os.close(master)
    return {"top": (after.user + after.system - before.user - before.system) / WATCHED * 100}


def _swallow(master: int) -> None:
    try:
        while os.read(master, 1 << 16):
            pass
    except OSError:
        pass  # the terminal is closed


def _measure(setting: Setting) -> Sample:
    return {**_borrows(setting), **_scrape(setting), **_top(setting)}


BENCHMARK = Benchmark(
    "watch",
    "what it costs to be watched: a borrow's statistics, a scrape of 100 processes, `mppool top` on 64",
    dict.fromkeys(("borrow", "unrecorded", "with places"), "µs")
    | dict.fromkeys(("scrape", "scrape, processor"), "ms")
    | {"top": "%"},
    {"mppool": _measure},
    compare=False,
)
