"""What a process costs to begin: from the fork to the first answer in the child.

``used``: the parent has used the pool before, so that the child must leave behind what it inherited and needs a
driver of its own; ``unused``: it has only declared it. Each a child after another, the median of them; the clock is the
system's, read by the parent just before the fork and by the child when its first query has been answered. ``fork`` is
what the fork and a first line of Python in the child take alone, out of the same parents, and is in both.
"""

from __future__ import annotations

import os
import statistics
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from scripts.benchmarks.contract import Benchmark, Sample, Setting

CHILDREN = 15
PERMITS = 4


def _child(work: Callable[[], Any]) -> float:
    """Milliseconds from before the fork until the work is done in the child."""
    reader, writer = os.pipe()
    start = time.perf_counter()
    pid = os.fork()
    if not pid:
        try:
            work()
            os.write(writer, struct.pack("d", time.perf_counter()))
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 8)
    os.close(reader)
    os.waitpid(pid, 0)
    if not told:
        raise RuntimeError("the child failed")
    return (struct.unpack("d", told)[0] - start) * 1e3


def _children(work: Callable[[], Any]) -> float:
    return statistics.median(_child(work) for _ in range(CHILDREN))


def _ask(pool: Any) -> None:
    with pool.connection() as conn:
        conn.query_first("SELECT 1 AS a")


def _measure(uri_of: Callable[[Setting], str], setting: Setting) -> Sample:
    from mppool import PoolManager

    with PoolManager(uri_of(setting), max_size=PERMITS) as manager:
        pool = manager.pool()
        sample = {"unused": _children(partial(_ask, pool)), "fork, unused": _children(int)}
        _ask(pool)
        sample |= {"used": _children(partial(_ask, pool)), "fork, used": _children(int)}
    return sample


BENCHMARK = Benchmark(
    "attach",
    "from the fork to the first answer in a child, when its parent has used the pool before and when not",
    dict.fromkeys(("unused", "used", "fork, unused", "fork, used"), "ms"),
    {
        "SQLite": partial(_measure, lambda setting: setting.sqlite_uri),
        "PostgreSQL": partial(_measure, lambda setting: setting.postgres_uri),
    },
    compare=False,
)
